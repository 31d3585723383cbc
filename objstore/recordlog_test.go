package objstore

import (
	"testing"

	"github.com/google/uuid"

	"varve/objstore/vfs"
)

// A log whose header a power cut has taken opens where there is no room for one, and gets it when there is.
func TestLogMadeAnewOnFullDisk(t *testing.T) {
	id := uuid.New()
	for _, size := range []int64{0, 10, logHeaderSize} {
		mem := vfs.NewMem(0)
		f, err := mem.Create("log")
		must(t, err)
		must(t, f.Truncate(size))
		must(t, f.Close())
		for _, total := range []int64{0, 1 << 30, 1 << 30} { // first on a full disk
			mem.SetSpace(total)
			l, err := openLog(mem, "log", logKindDir, id, 1, true, func([]byte) error { return nil })
			if err != nil {
				t.Fatalf("%d bytes of zeroes: %v", size, err)
			}
			must(t, l.close())
		}
	}
}
