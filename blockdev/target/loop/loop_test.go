package loop_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"varve/blockdev/target"
	"varve/blockdev/target/loop"
	"varve/blockdev/target/targettest"
	"varve/uring/queue"
)

const size = 4 << 20

// newFile makes a sparse file.
func newFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string, o loop.Options) *loop.Loop {
	t.Helper()
	l, err := loop.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestConformance(t *testing.T) {
	for name, o := range map[string]loop.Options{
		"direct": {}, "buffered": {Buffered: true}, "4k": {BlockSize: 4096}, "read-only": {ReadOnly: true},
	} {
		t.Run(name, func(t *testing.T) {
			targettest.Test(t, targettest.Options{
				Open: func(t *testing.T) target.Target { return open(t, newFile(t), o) },
			})
		})
	}
}

// The same on a block device, whose discards and zeroes are other calls of the kernel.
func TestConformanceOnBlockDevice(t *testing.T) {
	targettest.Test(t, targettest.Options{
		Open: func(t *testing.T) target.Target { return open(t, blockDevice(t), loop.Options{}) },
	})
}

// blockDevice is a loop device of the kernel's, or skips where there are none.
func blockDevice(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", newFile(t)).Output()
	if err != nil {
		if os.Getenv("VARVE_VM") != "" {
			t.Fatalf("losetup: %v", err)
		}
		t.Skipf("missing feature: loop devices: %v", err)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return path
}

func TestOpenErrors(t *testing.T) {
	odd := newFile(t)
	if err := os.Truncate(odd, size+100); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		o    loop.Options
		want error
		says string
	}{
		{empty + "-not", loop.Options{}, os.ErrNotExist, "empty-not"},
		{empty, loop.Options{}, queue.ErrInvalid, "is empty"},
		{odd, loop.Options{}, queue.ErrInvalid, "has 4194404 bytes, no multiple of the block size 512"},
		{newFile(t), loop.Options{BlockSize: 1024}, queue.ErrInvalid, "block size 1024"},
	} {
		l, err := loop.Open(c.path, c.o)
		if err == nil {
			l.Close()
		}
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v that says %q", c.path, err, c.want, c.says)
		}
	}
	if l := open(t, newFile(t), loop.Options{BlockSize: 4096}).Limits(); l.Size != size || l.BlockSize != 4096 {
		t.Errorf("limits %+v, want %d bytes", l, size)
	}
}

// A file that grows makes room for a larger disk, in whole blocks; one that shrinks does not.
func TestMeasure(t *testing.T) {
	path := newFile(t)
	l := open(t, path, loop.Options{BlockSize: 4096})
	if err := l.Fits(size + 4096); !errors.Is(err, queue.ErrInvalid) {
		t.Errorf("a larger disk fits before the file has grown: %v", err)
	}
	for _, c := range []struct{ file, disk int64 }{{2*size + 5000, 2*size + 4096}, {size - 1, size - 4096}} {
		if err := os.Truncate(path, c.file); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Measure(); got != c.disk || err != nil {
			t.Errorf("a file of %d bytes is a disk of %d, %v, want %d", c.file, got, err, c.disk)
		}
		if err := errors.Join(l.Fits(c.disk)); err != nil {
			t.Error(err)
		}
		if err := l.Fits(c.disk + 4096); !errors.Is(err, queue.ErrInvalid) {
			t.Errorf("%d bytes fit into %d: %v", c.disk+4096, c.file, err)
		}
	}
}
