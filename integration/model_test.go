//go:build integration

package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestDeviceModel has four parallel writers, each with its own part of the device: random writes,
// discards, write-zeroes, flushes and reads of 512 bytes to 1 MiB are compared with a copy in
// memory.
func TestDeviceModel(t *testing.T) {
	for _, mode := range []string{"zero", "user", "plain"} {
		t.Run(mode, func(t *testing.T) {
			const part = 16 << 20
			ctx := limit(t, 3*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx)
			dev := n.volume(ctx, "disk", "64M", "--queues", "2", "--copy-mode", mode)
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			var wg sync.WaitGroup
			models := make([][]byte, 4)
			for i := range models {
				models[i] = make([]byte, part)
				w := &modelWriter{
					f: openDirect(t, dev, os.O_RDWR), base: int64(i) * part, model: models[i],
					buf: aligned(t, 1<<20), random: rand.New(rand.NewPCG(seed, uint64(i))),
				}
				wg.Go(func() {
					for step := range 400 {
						if err := w.step(step); err != nil {
							t.Errorf("writer %d, step %d: %v", i, step, err)
							return
						}
					}
				})
			}
			wg.Wait()
			whole, err := os.ReadFile(dev)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(whole, bytes.Join(models, nil)) {
				t.Error("at the end the device differs from the model")
			}
		})
	}
}

// modelWriter works on a part of a device that is its own.
type modelWriter struct {
	f      *os.File
	base   int64 // bytes, where its part begins
	model  []byte
	buf    []byte
	random *rand.Rand
}

func (w *modelWriter) step(step int) error {
	length := 512 << w.random.IntN(12)
	length = 512 * (1 + w.random.IntN(length/512))
	off := 512 * w.random.Int64N(int64(len(w.model)-length)/512)
	there, b := w.model[off:off+int64(length)], w.buf[:length]
	switch op := w.random.IntN(10); {
	case op < 4:
		for i := range b {
			b[i] = byte(step) ^ byte(i>>9) ^ byte(w.base>>24) | 1
		}
		copy(there, b)
		_, err := w.f.WriteAt(b, w.base+off)
		return err
	case op == 4:
		clear(there)
		return w.ioctl(unix.BLKDISCARD, off, length)
	case op == 5:
		clear(there)
		return w.ioctl(unix.BLKZEROOUT, off, length)
	case op == 6:
		return w.f.Sync()
	default:
		if _, err := w.f.ReadAt(b, w.base+off); err != nil {
			return err
		}
		for i := range b {
			if b[i] != there[i] {
				return fmt.Errorf("%d bytes at %d: byte %d is %#x, want %#x", length, off, i, b[i], there[i])
			}
		}
	}
	return nil
}

func (w *modelWriter) ioctl(request uint, off int64, length int) error {
	arg := [2]uint64{uint64(w.base + off), uint64(length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, w.f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return fmt.Errorf("ioctl %#x of %d bytes at %d: %w", request, length, off, errno)
	}
	return nil
}
