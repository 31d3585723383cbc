package blockdev

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/loop"
)

// BenchmarkCopyModes reads a file on the temporary directory's file system, in each way and size.
func BenchmarkCopyModes(b *testing.B) {
	path := filepath.Join(b.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 64<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	l, err := loop.Open(path, loop.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for _, m := range []CopyMode{CopyZero, CopyUser, CopyPlain} {
		for _, size := range []int{4 << 10, 16 << 10, 64 << 10, 512 << 10} {
			for _, depth := range []int{1, 8} {
				b.Run(fmt.Sprintf("%s/%dk/%d", m, size>>10, depth), func(b *testing.B) {
					requireUblk(b, _UBLK_F_AUTO_BUF_REG)
					d := startDevice(b, l, Options{CopyMode: m, Logger: slog.New(slog.DiscardHandler)})
					readAll(b, d, size, depth)
				})
			}
		}
	}
}

// readAll reads b.N times.
func readAll(b *testing.B, d *Device, size, depth int) {
	f, err := os.OpenFile(d.Path(), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(int64(size))
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range depth {
		n := b.N / depth
		if w < b.N%depth {
			n++
		}
		wg.Go(func() {
			buf := aligned(size, 0)
			for i := range n {
				if _, err := f.ReadAt(buf, int64(i%100)*int64(size)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}
