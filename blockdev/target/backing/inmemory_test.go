package backing

import (
	"os"
	"path/filepath"
	"testing"
)

// A file on tmpfs is in memory; a device is not, though its node is on a tmpfs, as that of /dev is.
func TestInMemory(t *testing.T) {
	shm, err := os.CreateTemp("/dev/shm", "varve-test")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(shm.Name()) }()
	defer func() { _ = shm.Close() }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	proc, err := os.Open(filepath.Join("/proc", "version"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = proc.Close() }()
	for _, f := range []*os.File{shm, null, proc} {
		if got, want := inMemory(int(f.Fd())), f == shm; got != want {
			t.Errorf("%s is in memory: %v, want %v", f.Name(), got, want)
		}
	}
}
