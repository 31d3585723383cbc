package record

import (
	"bytes"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/vfs"
)

// overwrite changes bytes of a file.
func overwrite(t *testing.T, fs vfs.FS, name string, off int64, b string) {
	t.Helper()
	f, err := fs.Open(name)
	must(t, err)
	_, err = f.WriteAt([]byte(b), off)
	must(t, err)
	must(t, f.Close())
}

// twoCopies makes a closed log with these frames, and a copy of it.
func twoCopies(t *testing.T, fs vfs.FS, frames ...[]byte) {
	t.Helper()
	l, err := Create(fs, "log", goldenID)
	must(t, err)
	for _, p := range frames {
		must(t, l.Append(p))
	}
	must(t, l.AddCopy(fs, "copy"))
	must(t, l.Close())
}

// largeFrames returns n frames of 900 KiB, each with other bytes.
func largeFrames(n int) [][]byte {
	frames := make([][]byte, n)
	for i := range frames {
		frames[i] = bytes.Repeat([]byte{byte(i + 1)}, 900<<10)
	}
	return frames
}

// A long log of which each copy is damaged somewhere, and torn, is repaired with little of it in
// memory.
func TestLongLogTakesLittleMemory(t *testing.T) {
	const frames, size, most = 66, 1 << 20, 24 << 20
	fs := vfs.OS(t.TempDir())
	l, err := Create(fs, "log", goldenID)
	must(t, err)
	for i := range frames {
		must(t, l.Draft(bytes.Repeat([]byte{byte(i + 1)}, size)))
	}
	must(t, l.SyncDraft())
	must(t, l.AddCopy(fs, "copy"))
	must(t, l.Close())
	overwrite(t, fs, "log", 3*size, "not what was there")
	overwrite(t, fs, "copy", 40*size, "nor here")
	overwrite(t, fs, "copy", l.end, "torn, and never answered")

	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	peak, got := int64(0), 0
	l, err = Open(t.Context(), fs, []string{"log", "copy"}, goldenID, false, func(p []byte) error {
		if got++; len(p) != size || p[0] != byte(got) || p[size-1] != byte(got) {
			t.Errorf("frame %d is not what was written", got)
		}
		if got%8 != 0 {
			return nil
		}
		runtime.GC()
		runtime.ReadMemStats(&now)
		peak = max(peak, int64(now.HeapAlloc)-int64(before.HeapAlloc))
		return nil
	})
	must(t, err)
	if got != frames || len(l.Damage()) != 2 || l.Copies() != 2 {
		t.Errorf("%d frames, want %d; %d copies, damage %v", got, frames, l.Copies(), l.Damage())
	}
	if peak > most {
		t.Errorf("a log of %d MiB took %d MiB of memory", frames, peak>>20)
	}
	for i := range l.copies {
		must(t, l.VerifyCopy(t.Context(), i))
	}
	must(t, l.Close())
}

// A copy that an older version has left behind still has the frames that both had until then.
func TestCopyLeftBehindRepairsTheOther(t *testing.T) {
	mem := vfs.NewMem(0)
	l, err := Create(mem, "log", goldenID)
	must(t, err)
	must(t, l.Append([]byte("one")))
	must(t, l.Append([]byte("two")))
	must(t, l.AddCopy(mem, "copy"))
	older := *l
	older.copies, older.end = l.copies[:1], l.last
	must(t, older.Append([]byte("another two")))
	must(t, older.Append([]byte("three")))
	must(t, l.Close())
	want := disktest.ReadFile(t, mem, "log")
	overwrite(t, mem, "log", HeaderSize+frameHeader, "???") // only the copy has the first frame

	var got []string
	l, err = Open(t.Context(), mem, []string{"log", "copy"}, goldenID, false, func(p []byte) error { got = append(got, string(p)); return nil })
	must(t, err)
	must(t, l.Close())
	if len(got) != 3 || got[0] != "one" || got[1] != "another two" || got[2] != "three" || l.Copies() != 1 {
		t.Errorf("frames %q in %d copies", got, l.Copies())
	}
	if !bytes.Equal(disktest.ReadFile(t, mem, "log"), want) {
		t.Error("the log is not what it was before the damage")
	}
}

// Blocks that the disk does not return come from the other copy, and are written again.
func TestUnreadableBlocksComeFromTheOtherCopy(t *testing.T) {
	mem := vfs.NewMem(0)
	twoCopies(t, mem, largeFrames(5)...)
	blocks := map[string]int64{"log": 300, "copy": 900}
	written := map[string]bool{}
	fs := vfs.Inject(mem, func(op vfs.Op) error {
		block, ok := blocks[op.Name]
		if !ok || op.Off >= (block+1)*disk.BlockSize || op.Off+op.Len <= block*disk.BlockSize {
			return nil
		}
		if op.Kind == vfs.OpRead {
			return unix.EIO
		}
		written[op.Name] = written[op.Name] || op.Kind == vfs.OpWrite
		return nil
	})
	got := 0
	l, err := Open(t.Context(), fs, []string{"log", "copy"}, goldenID, false, func([]byte) error { got++; return nil })
	must(t, err)
	must(t, l.Close())
	if got != 5 || len(l.Damage()) != 2 || len(written) != 2 {
		t.Errorf("%d frames, damage %v, written again: %v", got, l.Damage(), written)
	}
	for _, d := range l.Damage() {
		if d.Offset != blocks[d.File]*disk.BlockSize {
			t.Errorf("damage at byte %d of %s, want block %d", d.Offset, d.File, blocks[d.File])
		}
	}
}

// An error that says nothing about the bytes ends the opening, and nothing is repaired by what it
// left unread.
func TestOpenEndsWithATransientError(t *testing.T) {
	mem := vfs.NewMem(0)
	twoCopies(t, mem, largeFrames(4)...)
	for _, name := range []string{"log", "copy"} {
		for at := range int64(4) {
			fs := vfs.Inject(mem, func(op vfs.Op) error {
				switch {
				case op.Kind == vfs.OpRead && op.Name == name && op.Off+op.Len > at<<20:
					return unix.ENOMEM
				case op.Kind == vfs.OpWrite, op.Kind == vfs.OpTruncate:
					t.Errorf("%v of %s", op.Kind, op.Name)
				}
				return nil
			})
			if _, err := Open(t.Context(), fs, []string{"log", "copy"}, goldenID, false, func([]byte) error { return nil }); !disk.Transient(err) {
				t.Errorf("%s can't be read from MiB %d on: %v", name, at, err)
			}
		}
	}
}

// A damaged copy that can't be repaired is given up, and is damage all the same.
func TestDamageThatCantBeRepairedIsNoted(t *testing.T) {
	for _, kind := range []vfs.Kind{vfs.OpTruncate, vfs.OpWrite} {
		mem := vfs.NewMem(0)
		twoCopies(t, mem, []byte("one"), []byte("two"))
		fs := vfs.Inject(mem, func(op vfs.Op) error {
			if op.Name == "log" && (op.Kind == vfs.OpRead || op.Kind == kind) {
				return unix.EIO
			}
			return nil
		})
		got := 0
		l, err := Open(t.Context(), fs, []string{"log", "copy"}, goldenID, false, func([]byte) error { got++; return nil })
		must(t, err)
		must(t, l.Close())
		if d := l.Damage(); got != 2 || l.Copies() != 1 || len(d) != 1 || d[0].File != "log" || d[0].Offset != 0 {
			t.Errorf("%v fails: %d frames in %d copies, damage %v", kind, got, l.Copies(), d)
		}
	}
}
