package vfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// alignedBuffer returns n bytes at a page's start.
func alignedBuffer(t *testing.T, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Munmap(b)) })
	return b
}

// The descriptors read and write the same file, the direct one in units of its alignment.
func TestFD(t *testing.T) {
	dir := t.TempDir()
	fs := OS(dir)
	f := create(t, fs, "f")
	must(t, fs.Rename("f", "g")) // the direct descriptor is opened by the buffered one, not by name
	must(t, f.Allocate(0, 1<<20))
	buffered, direct := f.FD(1), f.FD(4096)
	if buffered < 0 || direct < 0 {
		t.Fatalf("descriptors %d, %d", buffered, direct)
	}
	flags, err := unix.FcntlInt(uintptr(direct), unix.F_GETFL, 0)
	must(t, err)
	probe, err := os.OpenFile(filepath.Join(dir, "g"), os.O_RDWR|unix.O_DIRECT, 0)
	if hasDirect := err == nil; hasDirect != (flags&unix.O_DIRECT != 0) {
		t.Fatalf("direct descriptor: %v; the file system takes O_DIRECT: %v", flags&unix.O_DIRECT != 0, hasDirect)
	}
	if err == nil {
		must(t, probe.Close())
	}
	p := alignedBuffer(t, 8192)
	copy(p, bytes.Repeat([]byte("direct"), 8192/6))
	if n, err := unix.Pwrite(direct, p, 4096); n != len(p) || err != nil {
		t.Fatalf("write %d, %v", n, err)
	}
	q := alignedBuffer(t, 8192)
	if n, err := unix.Pread(buffered, q, 4096); n != len(q) || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	wantBytes(t, q, p)
	write(t, f, 4096, []byte("buffered"))
	if n, err := unix.Pread(direct, q, 4096); n != len(q) || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	wantBytes(t, q[:8], []byte("buffered"))
	must(t, f.Datasync())
}

// Where there is no fallocate, zeroes are written, and only where there was nothing.
func TestFillHoles(t *testing.T) {
	fs := OS(t.TempDir())
	f := create(t, fs, "f")
	must(t, f.Truncate(1<<20))
	write(t, f, 1<<18, []byte("data"))
	o := f.(*osFile)
	must(t, o.fillHoles(1<<17, 3<<20))
	wantSize(t, f, 3<<20)
	want := make([]byte, 3<<20)
	copy(want[1<<18:], "data")
	wantBytes(t, read(t, f, 0, 3<<20), want)
	used, err := fs.Used("f")
	must(t, err)
	if used < 3<<20-1<<17 {
		t.Fatalf("used %d", used)
	}
	must(t, o.zeroUpToSize(1<<18, 4<<20))
	clear(want[1<<18:])
	wantSize(t, f, 3<<20)
	wantBytes(t, read(t, f, 0, 3<<20), want)
}

func TestRetry(t *testing.T) {
	n := 0
	err := retry(func() error {
		if n++; n < 3 {
			return unix.EINTR
		}
		return unix.EIO
	})
	if n != 3 || !errors.Is(err, unix.EIO) {
		t.Fatalf("%d calls, %v", n, err)
	}
}

// Where inode numbers do not outlast a mount, a file that has another one is not taken for a copy.
func TestFileSystemsThatNumberAnew(t *testing.T) {
	for _, c := range []struct {
		name string
		st   unix.Statfs_t
		want bool
	}{
		{"FAT", unix.Statfs_t{Type: unix.MSDOS_SUPER_MAGIC}, true},
		{"exFAT", unix.Statfs_t{Type: unix.EXFAT_SUPER_MAGIC}, true},
		{"ext4", unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC}, false},
		{"xfs", unix.Statfs_t{Type: unix.XFS_SUPER_MAGIC}, false},
		{"btrfs", unix.Statfs_t{Type: unix.BTRFS_SUPER_MAGIC}, false},
	} {
		if numbersAnew(&c.st) != c.want {
			t.Errorf("%s numbers its files anew: %v, want %v", c.name, !c.want, c.want)
		}
	}
}

func TestInMemory(t *testing.T) {
	for dir, want := range map[string]bool{"/dev/shm": true, "/proc": false} {
		if fs := OS(dir); fs.InMemory() != want || Patient(fs).InMemory() != want {
			t.Errorf("%s is in memory: %v, want %v", dir, !want, want)
		}
	}
	if OS("/nonexistent").InMemory() {
		t.Error("what is not there counts as in memory")
	}
}
