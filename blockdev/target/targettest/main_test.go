package targettest_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The disks of these tests are sketches of what is to come: each uses what a mirror, a client of
// nbd, a zoned disk, or an image with encrypted clusters needs of the queue.

const size = 4 << 20

// newFile makes a file of zeroes of the disks' size, and returns its descriptor.
func newFile(t *testing.T) int {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "file"), os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return int(f.Fd())
}
