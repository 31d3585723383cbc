package objstore

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

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

// A full disk that writes nothing in place, as btrfs does, refuses what is only written once more. The log opens all the
// same, with a torn frame behind its end or without; where bytes are missing it does not.
func TestLogOpensOnFullDiskWithoutOverwriting(t *testing.T) {
	id := uuid.New()
	for _, torn := range []int{0, 5, 40} {
		mem := vfs.NewMem(0)
		l, err := createLog(mem, "log", logKindRefs, id, 0)
		must(t, err)
		must(t, l.append([]byte("one")))
		must(t, l.append([]byte("two")))
		must(t, l.addCopy(mem, "copy"))
		must(t, l.close())
		end := l.end
		f, err := mem.Open("log")
		must(t, err)
		_, err = f.WriteAt(bytes.Repeat([]byte{7}, torn), end)
		must(t, err)
		must(t, f.Close())

		full := vfs.Inject(mem, func(op vfs.Op) error {
			if op.Kind == vfs.OpWrite && op.Len > 0 {
				return unix.ENOSPC
			}
			return nil
		})
		for _, names := range [][]string{{"log"}, {"log", "copy"}} {
			var got []string
			l, err := openLogs(full, names, logKindRefs, id, 0, false, func(p []byte) error { got = append(got, string(p)); return nil })
			if err != nil {
				t.Fatalf("%v, %d torn bytes: %v", names, torn, err)
			}
			if len(got) != 2 || l.end != end || len(l.files) != len(names) || len(l.damage) > 0 {
				t.Fatalf("%v, %d torn bytes: %q, end %d of %d, %d files, damage %v", names, torn, got, l.end, end, len(l.files), l.damage)
			}
			if err := l.append([]byte("three")); !errors.Is(err, ErrNoSpace) {
				t.Fatalf("append on a full disk: %v", err)
			}
			must(t, l.close())
		}
		f, err = mem.Open("log")
		must(t, err)
		must(t, f.Truncate(end-8))
		must(t, f.Close())
		if l, err := openLogs(full, []string{"log"}, logKindRefs, id, 0, false, func([]byte) error { return nil }); err == nil {
			if l.end >= end {
				t.Fatalf("a torn log has its frame")
			}
			must(t, l.close())
		}
	}
}
