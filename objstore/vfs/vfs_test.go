package vfs

import (
	"bytes"
	"errors"
	"io"
	iofs "io/fs"
	"slices"
	"strings"
	"testing"
)

// layers are what the conformance tests run over.
func layers(t *testing.T, test func(t *testing.T, fs FS)) {
	t.Run("OS", func(t *testing.T) { test(t, OS(t.TempDir())) })
	t.Run("Mem", func(t *testing.T) { test(t, NewMem(1)) })
	t.Run("Inject", func(t *testing.T) { test(t, Inject(NewMem(2), func(Op) error { return nil })) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error, names string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	if !strings.Contains(err.Error(), names) {
		t.Fatalf("error %q does not name %q", err, names)
	}
}

func create(t *testing.T, fs FS, name string) File {
	t.Helper()
	f, err := fs.Create(name)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func write(t *testing.T, f File, off int64, p []byte) {
	t.Helper()
	if n, err := f.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("write %d at %d: %d, %v", len(p), off, n, err)
	}
}

func read(t *testing.T, f File, off int64, n int) []byte {
	t.Helper()
	p := bytes.Repeat([]byte{0xee}, n)
	if _, err := f.ReadAt(p, off); err != nil {
		t.Fatalf("read %d at %d: %v", n, off, err)
	}
	return p
}

func wantBytes(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
			}
		}
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
}

func wantSize(t *testing.T, f File, want int64) {
	t.Helper()
	if got, err := f.Size(); err != nil || got != want {
		t.Fatalf("size %d, %v, want %d", got, err, want)
	}
}

func TestNames(t *testing.T) {
	layers(t, func(t *testing.T, fs FS) {
		_, err := fs.Open("a")
		wantErr(t, err, iofs.ErrNotExist, "a")
		_, err = fs.Create("d/a")
		wantErr(t, err, iofs.ErrNotExist, "d/a")
		must(t, fs.Mkdir("d/e"))
		must(t, fs.Mkdir("d/e"))
		f := create(t, fs, "d/a")
		write(t, f, 0, []byte("one"))
		_, err = fs.Create("d/a")
		wantErr(t, err, iofs.ErrExist, "d/a")
		must(t, fs.SyncDir("."))
		must(t, fs.SyncDir("d"))
		names, err := fs.List("d")
		must(t, err)
		if !slices.Equal(names, []string{"a", "e"}) {
			t.Fatalf("list: %q", names)
		}
		g := create(t, fs, "d/b")
		write(t, g, 0, []byte("two"))
		must(t, fs.Rename("d/b", "d/a"))
		h, err := fs.Open("d/a")
		must(t, err)
		wantBytes(t, read(t, h, 0, 3), []byte("two"))
		wantBytes(t, read(t, f, 0, 3), []byte("one")) // the old file lives while it is open
		must(t, h.Close())
		if err := fs.Remove("d"); err == nil {
			t.Fatal("removed a directory that is not empty")
		}
		must(t, fs.Remove("d/a"))
		must(t, fs.Remove("d/e"))
		names, err = fs.List("d")
		must(t, err)
		if len(names) != 0 {
			t.Fatalf("list: %q", names)
		}
		wantErr(t, fs.Remove("d/a"), iofs.ErrNotExist, "d/a")
		wantErr(t, fs.Rename("d/a", "d/b"), iofs.ErrNotExist, "d/a")
		_, err = fs.List("nowhere")
		wantErr(t, err, iofs.ErrNotExist, "nowhere")
		_, err = fs.Create("../out")
		wantErr(t, err, iofs.ErrInvalid, "../out")
	})
}

func TestReadWrite(t *testing.T) {
	layers(t, func(t *testing.T, fs FS) {
		f := create(t, fs, "f")
		model := make([]byte, 40000)
		for i, w := range []struct{ off, n int }{{5, 100}, {4090, 20}, {30000, 10000}, {8192, 4096}, {4095, 4098}} {
			p := bytes.Repeat([]byte{byte(i + 1)}, w.n)
			write(t, f, int64(w.off), p)
			copy(model[w.off:], p)
		}
		wantSize(t, f, 40000)
		wantBytes(t, read(t, f, 0, 40000), model)
		p := make([]byte, 10)
		if n, err := f.ReadAt(p, 39995); n != 5 || !errors.Is(err, io.EOF) {
			t.Fatalf("read past the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(p, 50000); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("read behind the end: %d, %v", n, err)
		}
		must(t, f.Truncate(9000))
		wantSize(t, f, 9000)
		must(t, f.Truncate(40000))
		clear(model[9000:])
		wantBytes(t, read(t, f, 0, 40000), model)
		must(t, f.Punch(4096, 5000))
		clear(model[4096:9096])
		wantBytes(t, read(t, f, 0, 40000), model)
		wantSize(t, f, 40000)
		must(t, f.Datasync())
	})
}

func TestAllocate(t *testing.T) {
	layers(t, func(t *testing.T, fs FS) {
		f := create(t, fs, "f")
		write(t, f, 5000, []byte("here"))
		must(t, f.Allocate(0, 1<<20))
		wantSize(t, f, 1<<20)
		want := make([]byte, 1<<20)
		copy(want[5000:], "here")
		wantBytes(t, read(t, f, 0, 1<<20), want)
		used, err := fs.Used("f")
		must(t, err)
		if used < 1<<20 || used > 1<<20+1<<16 {
			t.Fatalf("used %d", used)
		}
		must(t, f.Punch(1<<19, 1<<19))
		if used, err = fs.Used("f"); err != nil || used > 1<<19+1<<16 {
			t.Fatalf("used %d after the punch, %v", used, err)
		}
		must(t, f.Allocate(100, 100))
		wantSize(t, f, 1<<20)
		if err := f.Allocate(-1, 10); err == nil {
			t.Fatal("allocated a negative offset")
		}
		_, err = fs.Used("g")
		wantErr(t, err, iofs.ErrNotExist, "g")
	})
}

// What is reserved behind the end takes room and does not show.
func TestReserve(t *testing.T) {
	layers(t, func(t *testing.T, fs FS) {
		f := create(t, fs, "f")
		write(t, f, 0, []byte("here"))
		must(t, f.Reserve(4, 1<<20))
		wantSize(t, f, 4)
		used, err := fs.Used("f")
		must(t, err)
		if used < 1<<20 || used > 1<<20+1<<16 {
			t.Fatalf("used %d", used)
		}
		write(t, f, 4, []byte(" and there"))
		wantBytes(t, read(t, f, 0, 14), []byte("here and there"))
		if err := f.Reserve(-1, 10); err == nil {
			t.Fatal("reserved a negative offset")
		}
	})
}

func TestMap(t *testing.T) {
	layers(t, func(t *testing.T, fs FS) {
		f := create(t, fs, "f")
		_, err := f.Map(0, 4096)
		wantErr(t, err, iofs.ErrInvalid, "f")
		must(t, f.Allocate(0, 1<<16))
		write(t, f, 8000, []byte("before"))
		b, err := f.Map(4096, 3*4096)
		must(t, err)
		if len(b) != 3*4096 {
			t.Fatalf("%d bytes", len(b))
		}
		wantBytes(t, b[8000-4096:8006-4096], []byte("before"))
		copy(b[100:], "stored")
		wantBytes(t, read(t, f, 4196, 6), []byte("stored"))
		write(t, f, 4300, []byte("written"))
		wantBytes(t, b[204:211], []byte("written"))
		must(t, f.Allocate(1<<16, 1<<16)) // growing leaves mappings alone
		copy(b[300:], "again")
		wantBytes(t, read(t, f, 4396, 5), []byte("again"))
		c, err := f.Map(8192, 4096)
		must(t, err)
		c[0] = 'c'
		if b[4096] != 'c' {
			t.Fatal("two mappings of one page differ")
		}
		must(t, f.Unmap(c))
		must(t, f.Datasync())
		must(t, f.Unmap(b))
		wantBytes(t, read(t, f, 4396, 5), []byte("again"))
	})
}

func TestLock(t *testing.T) {
	layers(t, func(t *testing.T, fs FS) {
		l, err := fs.Lock("lock")
		must(t, err)
		_, err = fs.Lock("lock")
		wantErr(t, err, ErrLocked, "lock")
		must(t, l.Close())
		l, err = fs.Lock("lock")
		must(t, err)
		must(t, l.Close())
	})
}

func TestSpace(t *testing.T) {
	layers(t, func(t *testing.T, fs FS) {
		total, free, err := fs.Space()
		must(t, err)
		if free <= 0 || total < free {
			t.Fatalf("total %d, free %d", total, free)
		}
	})
}
