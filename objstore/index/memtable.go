package index

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// tableSize returns the size in bytes of badger's tables in memory: Options.MemTable, unless a killed
// process with larger ones has left a log. badger reads such a log into one table in memory and ends
// the process if the log does not fit (skl/arena.go, putNode, v4.9.6). An entry takes 1.4 to 1.5 times as much
// there as in the log, and a table has room for 1.3 times its size. badger begins a new log when the
// table is full, so that these tables are not larger than those of the process before.
func (d *disk) tableSize() int64 {
	size := d.opts.MemTable
	logs, _ := filepath.Glob(d.path("*.mem")) // the pattern is valid
	for _, log := range logs {
		var st unix.Stat_t
		if unix.Stat(log, &st) != nil {
			continue
		}
		used := min(st.Size, st.Blocks*512) // badger makes the file twice as long as the table, with a hole at the end
		size = max(size, used+used/4)
	}
	return size
}
