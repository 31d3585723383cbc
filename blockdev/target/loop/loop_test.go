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

// newFile makes a file, with some bytes that make no block.
func newFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size+100); err != nil {
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
	dir := t.TempDir()
	tiny := filepath.Join(dir, "tiny")
	if err := os.WriteFile(tiny, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{filepath.Join(dir, "none"): os.ErrNotExist, tiny: queue.ErrInvalid} {
		if _, err := loop.Open(path, loop.Options{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if l := open(t, newFile(t), loop.Options{BlockSize: 4096}).Limits(); l.Size != size || l.BlockSize != 4096 {
		t.Errorf("limits %+v, want %d bytes", l, size)
	}
}
