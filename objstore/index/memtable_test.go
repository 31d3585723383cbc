package index

import (
	"os"
	"path/filepath"
	"testing"
)

// A log that a killed process has left is read whatever size the tables in memory have now: that size
// follows from the store's reserve, which may have been made smaller.
func TestLogOfLargerTable(t *testing.T) {
	dir, killed := t.TempDir(), t.TempDir()
	x := openDisk(t, dir, Options{MemTable: 4 << 20, MinFree: -1})
	must(t, x.Put(entries(0, 25000)))
	var gone [][32]byte
	for i := range 15000 { // of what never was: an entry in the log is shortest with nothing in it
		gone = append(gone, *hash(100000 + i))
	}
	must(t, x.Delete(gone))
	must(t, x.Sync())
	must(t, os.CopyFS(killed, os.DirFS(dir)))
	must(t, x.Close())
	o := small
	o.Rebuilt = func(cause error) { t.Fatalf("rebuilt: %v", cause) }
	for range 2 { // with the log, and with the table that it became
		y := openDisk(t, killed, o)
		wantEntries(t, y, 0, 25000)
		must(t, y.Close())
	}
	if logs, err := filepath.Glob(filepath.Join(killed, "*.mem")); err != nil || len(logs) > 0 {
		t.Errorf("logs are left: %v, %v", logs, err)
	}
}
