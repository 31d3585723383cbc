package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"varve/fs/internal/need"
	"varve/objstore"
)

// BenchmarkLive reads and writes the live file of a real store, one request at a time.
func BenchmarkLive(b *testing.B) {
	need.These(b, need.FUSE, need.Root)
	const size = 256 * mib
	dir := filepath.Join(b.TempDir(), "store")
	if err := objstore.Init(dir, objstore.InitOptions{}); err != nil {
		b.Fatal(err)
	}
	st, err := objstore.Open(b.Context(), dir, objstore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	if _, err := st.CreateVolume(b.Context(), "vol", objstore.VolumeOptions{Size: size}); err != nil {
		b.Fatal(err)
	}
	s, err := Mount(b.TempDir(), Store(st), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.ForceUnmount(); err != nil {
			b.Error(err)
		}
	}()
	f, err := os.OpenFile(filepath.Join(s.Dir(), "volumes/vol/live"), os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{4096, 65536, 524288} {
		buf := noise(n)
		for name, do := range map[string]func(int, []byte, int64) (int, error){"write": unix.Pwrite, "read": unix.Pread} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				for i := 0; b.Loop(); i++ {
					if got, err := do(int(f.Fd()), buf, int64(i%(size/n))*int64(n)); got != n || err != nil {
						b.Fatal(got, err)
					}
				}
			})
		}
	}
}
