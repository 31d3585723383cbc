package blockdev

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/loop"
	"varve/blockdev/target/null"
	"varve/blockdev/target/volume"
	"varve/objstore"
	"varve/objstore/storetest"
)

// lack is the one place that skips a test for what the machine lacks. The variable makes it a
// failure, where the test kernel has it.
func lack(t testing.TB, variable, format string, args ...any) {
	t.Helper()
	if os.Getenv(variable) == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// requireUblk decides whether a test of a real device runs; VARVE_REQUIRE_UBLK=1, as in the test
// kernel, has it run.
func requireUblk(t testing.TB, flags uint64) {
	t.Helper()
	const variable = "VARVE_REQUIRE_UBLK"
	c, err := openControl()
	if err != nil {
		lack(t, variable, "needs ublk: %v", err)
	}
	defer c.close()
	have, err := c.features(t.Context())
	if err != nil {
		lack(t, variable, "needs ublk: %v", err)
	}
	if lost := flags &^ have; lost != 0 {
		lack(t, variable, "needs %v", unsupported(lost&-lost, "the test"))
	}
}

// startDevice serves t until the test ends.
func startDevice(t testing.TB, target target.Target, o Options) *Device {
	t.Helper()
	o.ID = -1
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	d, err := Start(t.Context(), target, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopDevice(t, d) })
	return d
}

func stopDevice(t testing.TB, d *Device) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	select {
	case <-d.Done():
		return
	default:
	}
	if err := d.Stop(ctx, false); err != nil {
		t.Errorf("stop: %v", err)
		if err := d.Stop(ctx, true); err != nil {
			t.Fatalf("stop by force: %v", err)
		}
	}
	if err := d.Wait(); err != nil {
		t.Errorf("wait: %v", err)
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// disk is an open block device and what it should hold.
type disk struct {
	t     *testing.T
	f     *os.File
	block int
	model []byte
	rnd   *rand.Rand
}

func openDisk(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func newDisk(t *testing.T, d *Device, block int) *disk {
	t.Helper()
	return &disk{
		t: t, f: openDisk(t, d.Path(), os.O_RDWR), block: block, model: make([]byte, d.size.Load()),
		rnd: rand.New(rand.NewPCG(1, uint64(block))),
	}
}

// aligned gives memory as O_DIRECT wants it, off bytes into a page.
func aligned(n, off int) []byte {
	b := make([]byte, n+2*pageSize)
	skip := 0
	for uintptrOf(b[skip:])%pageSize != 0 {
		skip++
	}
	return b[skip+off : skip+off+n]
}

func (d *disk) randomRange(most int) (off, n int) {
	n = (1 + d.rnd.IntN(most/d.block)) * d.block
	off = d.rnd.IntN((len(d.model)-n)/d.block+1) * d.block
	return off, n
}

// fill makes random bytes, a multiple of 8 of them.
func (d *disk) fill(buf []byte) {
	for i := 0; i < len(buf); i += 8 {
		binary.NativeEndian.PutUint64(buf[i:], d.rnd.Uint64())
	}
}

// step does one random operation and checks it against the model.
func (d *disk) step() {
	d.t.Helper()
	most := []int{d.block, 4096, 64 << 10, 1 << 20}[d.rnd.IntN(4)]
	off, n := d.randomRange(max(most, d.block))
	buf := aligned(n, 512*d.rnd.IntN(8))
	switch op := d.rnd.IntN(12); {
	case op < 5:
		d.fill(buf)
		if _, err := d.f.WriteAt(buf, int64(off)); err != nil {
			d.t.Fatalf("write of %d at %d: %v", n, off, err)
		}
		copy(d.model[off:], buf)
	case op < 9:
		d.check(off, buf)
	case op == 9:
		// A discard of whole physical blocks; what remains of it is zero on our targets.
		from, to := roundUp(off, pageSize), (off+n)&^(pageSize-1)
		if from >= to {
			return
		}
		d.ioctl(unix.BLKDISCARD, from, to-from)
		clear(d.model[from:to])
	case op == 10:
		d.ioctl(unix.BLKZEROOUT, off, n)
		clear(d.model[off : off+n])
	default:
		if err := d.f.Sync(); err != nil {
			d.t.Fatalf("flush: %v", err)
		}
	}
}

func (d *disk) check(off int, buf []byte) {
	d.t.Helper()
	if _, err := d.f.ReadAt(buf, int64(off)); err != nil {
		d.t.Fatalf("read of %d at %d: %v", len(buf), off, err)
	}
	if want := d.model[off : off+len(buf)]; !bytes.Equal(buf, want) {
		for i := range buf {
			if buf[i] != want[i] {
				d.t.Fatalf("read of %d at %d: byte %d is %#x, want %#x", len(buf), off, i, buf[i], want[i])
			}
		}
	}
}

func (d *disk) checkAll() {
	d.t.Helper()
	buf := aligned(1<<20, 0)
	for off := 0; off < len(d.model); off += len(buf) {
		d.check(off, buf[:min(len(buf), len(d.model)-off)])
	}
}

func (d *disk) ioctl(req uint, off, n int) {
	d.t.Helper()
	if err := blockRange(d.f, req, off, n); err != nil {
		d.t.Fatalf("ioctl %#x of %d at %d: %v", req, n, off, err)
	}
}

// mode is one way to serve requests that tests go through.
type mode struct {
	name    string
	copy    CopyMode
	without uint64
	needs   uint64
}

var modes = []mode{
	{"zero", CopyZero, 0, _UBLK_F_AUTO_BUF_REG},
	{"zero-no-user-copy", CopyZero, _UBLK_F_USER_COPY, _UBLK_F_AUTO_BUF_REG},
	{"user", CopyUser, 0, _UBLK_F_USER_COPY},
	{"plain", CopyPlain, 0, 0},
}

func eachMode(t *testing.T, f func(t *testing.T, o Options)) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			requireUblk(t, m.needs)
			f(t, Options{CopyMode: m.copy, without: m.without})
		})
	}
}

func TestDeviceNull(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		o.Owner = 0x1234567890abcdef
		d := startDevice(t, null.New(1<<30, 512), o)
		info, err := Info(t.Context(), d.ID())
		if err != nil {
			t.Fatal(err)
		}
		if info.State != StateLive || !info.ServerAlive || info.Owner != o.Owner || info.Size != 1<<30 ||
			info.ServerPID != os.Getpid() || info.CopyMode != o.CopyMode || info.Orphan() {
			t.Errorf("info %+v", info)
		}
		f := openDisk(t, d.Path(), os.O_RDWR)
		buf := aligned(1<<20, 0)
		for range 20 {
			if _, err := f.WriteAt(buf, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadAt(buf, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		if s := d.Stats(); s.Writes < 20 || s.Reads < 20 || s.WriteBytes != 20<<20 || s.Errors != 0 {
			t.Errorf("stats %+v", s)
		}
		stopDevice(t, d)
		if _, err := Info(t.Context(), d.ID()); !errors.Is(err, ErrNoDevice) {
			t.Errorf("info after stop: %v, want ErrNoDevice", err)
		}
	})
}

func loopFile(t *testing.T, size int64) string {
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

func openLoop(t *testing.T, path string, o loop.Options) *loop.Loop {
	t.Helper()
	l, err := loop.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestDeviceLoop(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		for _, block := range []int{512, 4096} {
			t.Run(fmt.Sprint(block), func(t *testing.T) {
				path := loopFile(t, 16<<20)
				d := startDevice(t, openLoop(t, path, loop.Options{BlockSize: block}), o)
				disk := newDisk(t, d, block)
				for range 400 {
					disk.step()
				}
				disk.checkAll()
				got, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, disk.model) {
					t.Error("the file differs from what was written")
				}
				if s := d.Stats(); s.Errors != 0 || (s.Copied != 0) != (o.CopyMode != CopyZero) {
					t.Errorf("stats %+v", s)
				}
				disk.f.Close()
			})
		}
	})
}

// openVolume makes a store with one volume, all of which settles at the end of the test.
func openVolume(t *testing.T, size int64, block int) *objstore.Volume {
	t.Helper()
	s, v := storetest.Volume(t, objstore.VolumeOptions{Size: size, BlockSize: block})
	t.Cleanup(func() {
		if err := s.Settle(context.Background()); err != nil {
			t.Errorf("settle: %v", err)
		}
	})
	return v
}

func TestDeviceVolume(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		for _, block := range []int{512, 4096} {
			t.Run(fmt.Sprint(block), func(t *testing.T) {
				v := openVolume(t, 16<<20, block)
				d := startDevice(t, volume.New(v), o)
				disk := newDisk(t, d, block)
				for range 400 {
					disk.step()
				}
				disk.checkAll()
				got := make([]byte, len(disk.model))
				if _, err := v.ReadAt(got, 0); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, disk.model) {
					t.Error("the volume differs from what was written")
				}
				if s := d.Stats(); s.Errors != 0 || s.Panics != 0 {
					t.Errorf("stats %+v", s)
				}
				disk.f.Close()
			})
		}
	})
}

// A read over more pieces than are in flight together, every second one a hole.
func TestDeviceManyPieces(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		d := startDevice(t, volume.New(openVolume(t, 8<<20, 512)), o)
		disk := newDisk(t, d, 512)
		buf := aligned(512, 0)
		for off := 1 << 20; off < 2<<20; off += 2 * 4096 {
			for i := range buf {
				buf[i] = byte(off>>12) | 1
			}
			if _, err := disk.f.WriteAt(buf, int64(off)); err != nil {
				t.Fatal(err)
			}
			copy(disk.model[off:], buf)
		}
		disk.check(1<<20, aligned(1<<20, 0))
		if s := d.Stats(); s.Secondaries < 128+128 {
			t.Errorf("stats %+v: the read was not in pieces", s)
		}
		disk.f.Close()
	})
}

func TestDeviceConcurrent(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		d := startDevice(t, volume.New(openVolume(t, 64<<20, 512)), o)
		f := openDisk(t, d.Path(), os.O_RDWR)
		const workers, area = 16, 4 << 20
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				disk := &disk{t: t, f: f, block: 512, model: make([]byte, area), rnd: rand.New(rand.NewPCG(2, uint64(w)))}
				for i := range 60 {
					off, n := disk.randomRange(128 << 10)
					buf := aligned(n, 0)
					base := int64(w * area)
					if i%3 != 2 {
						disk.fill(buf)
						if _, err := f.WriteAt(buf, base+int64(off)); err != nil {
							t.Errorf("write: %v", err)
							return
						}
						copy(disk.model[off:], buf)
						continue
					}
					if _, err := f.ReadAt(buf, base+int64(off)); err != nil {
						t.Errorf("read: %v", err)
						return
					}
					if !bytes.Equal(buf, disk.model[off:off+n]) {
						t.Errorf("worker %d: read of %d at %d differs", w, n, off)
						return
					}
				}
			})
		}
		wg.Wait()
		f.Close()
	})
}
