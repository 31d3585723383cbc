//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"varve/objstore/lincheck"
)

// The clients work on a few sectors around the border of two leaves of 4 KiB chunks.
const (
	linearFrom = 1<<20 - 12<<10
	linearTo   = 1<<20 + 12<<10
)

// TestLinearizableUnderKills lets clients read, write, discard, zero and flush the same few sectors
// of a volume through the ublk device and through the mount's live file, while snapshots are taken,
// the volume settles, and the daemon is killed or stopped and started again. The history must be
// linearizable, sector by sector: a request of several sectors is atomic only for each of them, as
// a block device promises no more.
//
// A request through the mount that was in flight when the daemon died may or may not have taken
// effect. A request through the device is passed to the next daemon even if it had taken effect,
// and may take effect twice.
//
// VARVE_CRASH_LINEAR_KILLS is the number of kills; VARVE_CRASH_SEED picks the requests.
func TestLinearizableUnderKills(t *testing.T) {
	kills, seed := crashNumber(t, "VARVE_CRASH_LINEAR_KILLS", 9), uint64(crashNumber(t, "VARVE_CRASH_SEED", 0))
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("VARVE_CRASH_SEED=%d", seed)
	for round := 0; round*3 < kills; round++ {
		mode := []string{"zero", "user", "plain"}[round%3]
		t.Run(fmt.Sprintf("%d/%s", round, mode), func(t *testing.T) {
			linearRound(limit(t, 3*time.Minute), t, mode, 3, rand.New(rand.NewPCG(seed, uint64(round))))
		})
	}
}

func linearRound(ctx context.Context, t *testing.T, mode string, kills int, r *rand.Rand) {
	n := newNode(ctx, t, "--chunk-size", "4K")
	serve := func() {
		n.serve(ctx, "--settle-delay", "5ms", "--tail-soft", "1M", "--tail-hard", "4M", "--leaf-cache", "16K")
	}
	serve()
	w := &linearWorld{t: t, n: n, h: lincheck.NewHistory(), dev: n.volume(ctx, "disk", "16M", "--copy-mode", mode), mnt: n.fuse(ctx, "--shared-live")}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 7 {
		r := rand.New(rand.NewPCG(r.Uint64(), uint64(i)))
		clients.Go(func() {
			if i < 4 {
				w.deviceClient(r, stop)
			} else {
				w.mountClient(r, stop)
			}
		})
	}
	clients.Go(func() { w.snapshots(ctx, stop) })
	for i := range kills {
		time.Sleep(time.Duration(100+r.IntN(400)) * time.Millisecond)
		stopped := i%3 == 2
		w.h.Kill(func() {
			if stopped {
				n.stop(ctx)
			} else {
				n.kill(ctx)
			}
		})
		if r.IntN(2) == 0 { // sometimes no daemon runs for a while
			time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
		}
		serve()
	}
	time.Sleep(300 * time.Millisecond)
	close(stop)
	clients.Wait()
	w.finalRead()
	report, err := w.h.Check(time.Minute)
	t.Logf("%+v, %d snapshots", report, len(w.snaps))
	t.Logf("crash: %d daemons killed or stopped", report.Kills)
	t.Logf("crash: %d requests that had to be linearizable", report.Requests)
	if err != nil {
		t.Error(err)
	}
	if report.Operations < 500 || len(w.snaps) == 0 || report.Kills != kills {
		t.Error("hardly anything was done")
	}
	noIOErrors(ctx, t, w.dev)
	n.varve(ctx, "umount", w.mnt)
	n.varve(ctx, "detach", "disk")
}

// linearWorld is a volume with a device, a mount, and the history of operations on it.
type linearWorld struct {
	t        *testing.T
	n        *node
	h        *lincheck.History
	dev, mnt string
	snaps    map[string][]byte
}

// deviceClient works through the device. It must see no error, whatever happens to the daemon.
func (w *linearWorld) deviceClient(r *rand.Rand, stop chan struct{}) {
	f, err := os.OpenFile(w.dev, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		w.t.Error(err)
		return
	}
	defer f.Close()
	c := w.h.Client(deviceDisk{f}, lincheck.Reissued)
	c.Buffer(aligned(w.t, linearTo-linearFrom))
	work := lincheck.Work{From: linearFrom, To: linearTo, Largest: 16}
	if err := work.Do(c, r, 1<<30, stop); err != nil {
		w.t.Errorf("through the device: %v", err)
	}
}

type deviceDisk struct{ *os.File }

func (d deviceDisk) Flush() error { return d.Sync() }

func (d deviceDisk) Zero(off, length int64) error {
	request := unix.BLKDISCARD
	if off/512%2 == 0 {
		request = unix.BLKZEROOUT
	}
	arg := [2]uint64{uint64(off), uint64(length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), uintptr(request), uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return fmt.Errorf("ioctl %#x of %d bytes at %d: %w", request, length, off, errno)
	}
	return nil
}

// mountClient works through the live file, which it opens again after its mount has died.
func (w *linearWorld) mountClient(r *rand.Rand, stop chan struct{}) {
	d := &liveDisk{w: w, stop: stop}
	defer d.close()
	if err := d.open(); err != nil {
		w.t.Error(err)
		return
	}
	c := w.h.Client(d, lincheck.Aborted)
	work := lincheck.Work{From: linearFrom, To: linearTo, Largest: 16, Ragged: true, RaggedZero: true, Retry: d.retry}
	if err := work.Do(c, r, 1<<30, stop); err != nil {
		w.t.Errorf("through the mount: %v", err)
	}
}

// liveDisk is the live file.
type liveDisk struct {
	w    *linearWorld
	stop chan struct{}
	f    *os.File
}

func (d *liveDisk) open() error {
	for {
		f, err := os.OpenFile(filepath.Join(d.w.mnt, "volumes/disk/live"), os.O_RDWR, 0)
		if err == nil {
			d.f = f
			return nil
		}
		select {
		case <-d.stop:
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (d *liveDisk) close() {
	if d.f != nil {
		_ = d.f.Close() // of a dead mount it fails
		d.f = nil
	}
}

// retry ignores errors that the daemon's death explains.
func (d *liveDisk) retry(err error) error {
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	// Requests in flight when the connection is aborted fail with EIO or ECONNABORTED, and later
	// ones with ENOTCONN.
	for end := time.Now().Add(time.Minute * patience()); ; time.Sleep(time.Millisecond) {
		_, dead := d.f.ReadAt(make([]byte, 512), 0)
		if errors.Is(dead, unix.ENOTCONN) {
			break
		}
		if dead == nil {
			return fmt.Errorf("%w, and the mount is alive", err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w, and the mount does not die: %w", err, dead)
		}
	}
	d.close()
	if d.open() != nil {
		return lincheck.ErrStop
	}
	return nil
}

// outcome adds to an error what it implies for the request. ENOTCONN: the connection was gone, and
// the request was not sent (fs/fuse/dev.c, __fuse_request_send). EINTR: the daemon was told of a
// signal and gave up.
func outcome(n int, err error) error {
	switch {
	case n == 0 && errors.Is(err, unix.ENOTCONN):
		return errors.Join(lincheck.ErrNotSent, err)
	case errors.Is(err, unix.EINTR):
		return errors.Join(lincheck.ErrEnded, err)
	}
	return err
}

func (d *liveDisk) ReadAt(p []byte, off int64) (int, error) { return d.f.ReadAt(p, off) }

func (d *liveDisk) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.f.WriteAt(p, off)
	return n, outcome(n, err)
}

func (d *liveDisk) Zero(off, length int64) error {
	mode := uint32(unix.FALLOC_FL_KEEP_SIZE)
	if off/512%2 == 0 {
		mode |= unix.FALLOC_FL_ZERO_RANGE
	} else {
		mode |= unix.FALLOC_FL_PUNCH_HOLE
	}
	return outcome(0, unix.Fallocate(int(d.f.Fd()), mode, off, length))
}

func (d *liveDisk) Flush() error { return d.f.Sync() }

// snapshots takes snapshots and reads them: each is a read that took effect while the snapshot was
// created.
func (w *linearWorld) snapshots(ctx context.Context, stop chan struct{}) {
	w.snaps = map[string][]byte{}
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		name := fmt.Sprint("s", i)
		call := w.h.Now()
		if w.n.try(ctx, "snapshot", "create", "disk@"+name).code != 0 {
			continue // no daemon runs, and the snapshot may or may not exist
		}
		ret := w.h.Now()
		p, err := w.readSnapshot(name)
		for end := time.Now().Add(time.Minute * patience()); err != nil && time.Now().Before(end); p, err = w.readSnapshot(name) {
			time.Sleep(10 * time.Millisecond)
		}
		if err == nil {
			err = w.h.Saw(p, linearFrom, call, ret)
		}
		if err != nil {
			w.t.Errorf("snapshot %s: %v", name, err)
			return
		}
		w.snaps[name] = p
	}
}

func (w *linearWorld) readSnapshot(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(w.mnt, "snapshots/disk", name, "disk.img"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := make([]byte, linearTo-linearFrom)
	_, err = f.ReadAt(p, linearFrom)
	return p, err
}

// finalRead reads the final content through the device and the mount, and the snapshots again.
func (w *linearWorld) finalRead() {
	w.t.Helper()
	p := aligned(w.t, linearTo-linearFrom)
	for _, file := range []string{w.dev, filepath.Join(w.mnt, "volumes/disk/live")} {
		f := openDirect(w.t, file, os.O_RDONLY)
		call := w.h.Now()
		_, err := f.ReadAt(p, linearFrom)
		if err == nil {
			err = w.h.Saw(p, linearFrom, call, w.h.Now())
		}
		if err := errors.Join(err, f.Close()); err != nil {
			w.t.Errorf("at the end, %s: %v", file, err)
		}
	}
	for name, want := range w.snaps {
		got, err := w.readSnapshot(name)
		if err != nil || !bytes.Equal(got, want) {
			w.t.Errorf("at the end snapshot %s differs from what was read at first (%v)", name, err)
		}
	}
}
