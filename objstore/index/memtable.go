package index

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// tableSize returns the size in bytes of badger's tables in memory: Options.MemTable, unless a killed
// process with larger ones has left a log. badger reads such a log into one table in memory and ends
// the process if the log does not fit (skl/arena.go, putNode, v4.9.6). An entry takes a fifth more there than
// in the log, and badger's tables have room for three tenths more than their size.
func (d *disk) tableSize() int64 {
	size := d.opts.MemTable
	logs, _ := filepath.Glob(d.path("*.mem")) // the pattern is valid
	for _, log := range logs {
		var st unix.Stat_t
		if unix.Stat(log, &st) != nil {
			continue
		}
		// badger makes the file twice as long as the table, with a hole at the end.
		if used := min(st.Size, st.Blocks*512); used > d.opts.MemTable+d.opts.MemTable/8 {
			size = max(size, used)
		}
	}
	return size
}
