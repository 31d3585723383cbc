package record

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/vfs"
)

// A log whose header a power cut has taken opens where there is no room for one, and gets it when
// there is.
func TestLogMadeAnewOnFullDisk(t *testing.T) {
	id := ID{Kind: ObjectLog, Store: uuid.New(), Number: 1}
	for _, size := range []int64{0, 10, HeaderSize} {
		mem := vfs.NewMem(0)
		f, err := mem.Create("log")
		must(t, err)
		must(t, f.Truncate(size))
		must(t, f.Close())
		for _, total := range []int64{0, 1 << 30, 1 << 30} { // first on a full disk
			mem.SetSpace(total)
			l, err := Open(t.Context(), mem, []string{"log"}, id, true, func([]byte) error { return nil })
			if err != nil {
				t.Fatalf("%d bytes of zeroes: %v", size, err)
			}
			must(t, l.Close())
		}
	}
}

// A full disk that writes nothing in place, as btrfs does, refuses what is only written once more.
// The log opens all the same, with a torn frame behind its end or without; where bytes are missing
// it does not.
func TestLogOpensOnFullDiskWithoutOverwriting(t *testing.T) {
	id := ID{Kind: Refs, Store: uuid.New()}
	for _, torn := range []int{0, 5, 40} {
		mem := vfs.NewMem(0)
		l, err := Create(mem, "log", id)
		must(t, err)
		must(t, l.Append([]byte("one")))
		must(t, l.Append([]byte("two")))
		must(t, l.AddCopy(mem, "copy"))
		must(t, l.Close())
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
			l, err := Open(t.Context(), full, names, id, false, func(p []byte) error { got = append(got, string(p)); return nil })
			if err != nil {
				t.Fatalf("%v, %d torn bytes: %v", names, torn, err)
			}
			if len(got) != 2 || l.end != end || len(l.copies) != len(names) || len(l.damage) > 0 {
				t.Fatalf("%v, %d torn bytes: %q, end %d of %d, %d files, damage %v", names, torn, got, l.end, end, len(l.copies), l.damage)
			}
			if err := l.Append([]byte("three")); !errors.Is(err, disk.ErrNoSpace) {
				t.Fatalf("append on a full disk: %v", err)
			}
			must(t, l.Close())
		}
		f, err = mem.Open("log")
		must(t, err)
		must(t, f.Truncate(end-8))
		must(t, f.Close())
		if l, err := Open(t.Context(), full, []string{"log"}, id, false, func([]byte) error { return nil }); err == nil {
			if l.end >= end {
				t.Fatalf("a torn log has its frame")
			}
			must(t, l.Close())
		}
	}
}

// A log whose header was lost by a power cut before any frame was written is made anew, on disk
// too: a mark behind a header of zeroes made it damage at the opening after.
func TestLogMadeAnew(t *testing.T) {
	for _, left := range [][]byte{nil, make([]byte, 10), make([]byte, HeaderSize)} {
		fs := disktest.FS(t, "log", left)
		for opening := range 3 {
			l, err := Open(t.Context(), fs, []string{"log"}, ID{ObjectLog, disktest.Store, 7}, opening == 0, func([]byte) error { return errors.New("a frame of nothing") })
			if err != nil {
				t.Fatalf("%d bytes of zeroes, opening %d: %v", len(left), opening, err)
			}
			must(t, l.Close())
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
