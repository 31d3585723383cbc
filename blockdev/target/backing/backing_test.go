package backing_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/backing"
	"varve/uring/queue"
)

const size = 1 << 20

// newFile makes a file of random-looking bytes in dir.
func newFile(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, bytes.Repeat([]byte("backing!"), size/8), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string, o backing.Options) *backing.File {
	t.Helper()
	f, err := backing.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// What no target could use is refused, and opening it does not wait.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Symlink("nowhere", link)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, says string
		want       error
	}{
		{filepath.Join(dir, "none"), "none", os.ErrNotExist},
		{link, "link", os.ErrNotExist},
		{dir, "is a directory", queue.ErrInvalid},
		{fifo, "is a named pipe", queue.ErrInvalid},
		{os.DevNull, "is a character device", queue.ErrInvalid},
	} {
		if _, err := backing.Open(c.path, backing.Options{}); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v that says %q", c.path, err, c.want, c.says)
		}
	}
}

// A file that is written has one user; readers share it.
func TestOneWriter(t *testing.T) {
	path := newFile(t, t.TempDir())
	w := open(t, path, backing.Options{})
	if _, err := backing.Open(path, backing.Options{}); !errors.Is(err, backing.ErrUsed) || !strings.Contains(err.Error(), path) {
		t.Errorf("a second writer: %v, want ErrUsed", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		open(t, path, backing.Options{ReadOnly: true})
	}
}

// noFallocate makes a directory on a file system that has neither O_DIRECT nor fallocate.
func noFallocate(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		if os.Getenv("VARVE_VM") != "" {
			t.Fatalf("mount ramfs: %v", err)
		}
		t.Skipf("missing feature: mounts: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount ramfs: %v", err)
		}
	})
	return dir
}

// Zeroes are zeroes whatever the file system can do, also where it has neither O_DIRECT nor holes.
func TestZero(t *testing.T) {
	dirs := map[string]func(t *testing.T) string{
		"disk":  func(t *testing.T) string { return t.TempDir() },
		"tmpfs": shm,
		"ramfs": noFallocate,
	}
	for name, dir := range dirs {
		t.Run(name, func(t *testing.T) {
			path := newFile(t, dir(t))
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f := open(t, path, backing.Options{})
			if ram := name == "ramfs"; f.Direct() == ram || f.Discards() == ram || !f.InMemory() && name != "disk" {
				t.Errorf("direct %v, discards %v, in memory %v", f.Direct(), f.Discards(), f.InMemory())
			}
			for i, keep := range []bool{false, true} {
				off := int64(i+1) * 128 << 10
				if err := errors.Join(f.Zero(off, 64<<10, keep), f.Sync()); err != nil {
					t.Fatal(err)
				}
				clear(want[off : off+64<<10])
			}
			if f.Discards() {
				if err := f.Discard(512<<10, 128<<10); err != nil {
					t.Fatal(err)
				}
				clear(want[512<<10 : 640<<10])
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the file holds other bytes, %v", err)
			}
			if got, err := f.Measure(); got != size || err != nil {
				t.Errorf("the file has %d bytes, %v", got, err)
			}
		})
	}
}

func shm(t *testing.T) string {
	dir := fmt.Sprintf("/dev/shm/varve-test-%d", os.Getpid())
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A device's blocks are what the files want, and each file is whole blocks.
func TestBlockSize(t *testing.T) {
	f := open(t, newFile(t, t.TempDir()), backing.Options{Buffered: true})
	for want, got := range map[int]int{0: 512, 512: 512, 4096: 4096} {
		if n, err := backing.BlockSize(want, f); n != got || err != nil {
			t.Errorf("block size %d becomes %d, %v", want, n, err)
		}
	}
	if _, err := backing.BlockSize(3000, f); !errors.Is(err, queue.ErrInvalid) {
		t.Errorf("blocks of 3000 bytes: %v", err)
	}
}
