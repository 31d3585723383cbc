package backing

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// blockDevice is a loop device of the kernel's over a file of random-looking bytes, or skips where
// there are none.
func blockDevice(t *testing.T, flags ...string) (dev, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, bytes.Repeat([]byte("backing!"), 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", append(flags, "--find", "--show", file)...).Output()
	if err != nil {
		if os.Getenv("VARVE_VM") != "" {
			t.Fatalf("losetup: %v", err)
		}
		t.Skipf("missing feature: loop devices: %v", err)
	}
	dev = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return dev, file
}

// A block device has its size, can discard, by either call, and has one user that writes.
func TestBlockDevice(t *testing.T) {
	dev, path := blockDevice(t)
	f, err := Open(dev, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Size() != 1<<20 || !f.Discards() || f.InMemory() || f.OffAlign() < 512 {
		t.Errorf("%d bytes, discards %v, in memory %v, aligned to %d", f.Size(), f.Discards(), f.InMemory(), f.OffAlign())
	}
	if _, err := Open(dev, Options{}); !errors.Is(err, ErrUsed) {
		t.Errorf("a second writer: %v", err)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, discard := range []func(off, n int64) error{
		f.Discard,
		func(off, n int64) error { return blkDiscard(f.fd, off, n) },
		func(off, n int64) error { return f.Zero(off, n, false) },
		func(off, n int64) error { return f.Zero(off, n, true) },
	} {
		off := int64(i) * 128 << 10
		if err := discard(off, 64<<10); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
		clear(want[off : off+64<<10])
	}
	got := Memory(1 << 20)
	if err := errors.Join(f.Sync(), f.ReadAt(got, 0)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes, or %v", err)
	}
}

// A block device that can't be written is refused, unless it is to be read.
func TestReadOnlyBlockDevice(t *testing.T) {
	dev, _ := blockDevice(t, "--read-only")
	if _, err := Open(dev, Options{}); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "a read-only device") {
		t.Errorf("%v, want one that says what would do", err)
	}
	f, err := Open(dev, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if f.Discards() {
		t.Error("what is read only can discard")
	}
	f.Close()
}

// The same for a file system.
func TestReadOnlyFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		if os.Getenv("VARVE_VM") != "" {
			t.Fatalf("mount: %v", err)
		}
		t.Skipf("missing feature: mounts: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "a read-only device") {
		t.Errorf("%v, want EROFS that says what would do", err)
	}
	f, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
