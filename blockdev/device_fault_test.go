package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/loop"
	"varve/blockdev/target/null"
	"varve/blockdev/target/volume"
	"varve/objstore"
	"varve/uring/queue"
)

// faulty is a null disk whose requests do what fault says.
type faulty struct {
	*null.Null
	fault func(r *queue.Request, at string) error
	calls atomic.Int64
	drops atomic.Int64
}

func (f *faulty) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler { return faultyHandler{f} }}, nil
}

type faultyHandler struct{ *faulty }

func (h faultyHandler) Start(r *queue.Request) (queue.Action, error) {
	h.calls.Add(1)
	return queue.Handoff, h.fault(r, "start")
}

func (h faultyHandler) Work(_ context.Context, r *queue.Request) (queue.Action, error) {
	if err := h.fault(r, "work"); err != nil {
		return queue.Answer, err
	}
	if r.HasData() {
		if r.Op == queue.OpRead {
			r.Zeroes(0, r.Len)
			return queue.Submit, nil
		}
		r.MoveNothing()
	}
	return queue.Answer, nil
}

func (h faultyHandler) Finish(r *queue.Request, err error) (queue.Action, error) {
	return queue.Answer, errors.Join(err, h.fault(r, "finish"))
}

func (h faultyHandler) Drop(*queue.Request) { h.drops.Add(1) }

func TestDevicePanic(t *testing.T) {
	requireUblk(t, 0)
	target := &faulty{Null: null.New(1<<20, 512)}
	target.fault = func(r *queue.Request, at string) error {
		for i, where := range []string{"start", "work", "finish"} {
			if where == at && r.Off == int64(i+1)<<16 {
				panic("on purpose in " + at)
			}
		}
		return nil
	}
	var log safeBuffer
	d := startDevice(t, target, Options{Logger: log.logger()})
	f := openDisk(t, d.Path(), os.O_RDWR)
	buf := aligned(4096, 0)
	for i := range 3 {
		if _, err := f.ReadAt(buf, int64(i+1)<<16); !errors.Is(err, unix.EIO) {
			t.Errorf("read %d: %v, want EIO", i, err)
		}
		if _, err := f.ReadAt(buf, 0); err != nil {
			t.Errorf("read after panic %d: %v", i, err)
		}
	}
	f.Close()
	if s := d.Stats(); s.Panics != 3 || s.Errors != 3 || target.drops.Load() != 3 {
		t.Errorf("stats %+v, %d drops", s, target.drops.Load())
	}
	for _, want := range []string{"on purpose in start", "on purpose in work", "on purpose in finish", "faultyHandler.Start"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log has no %q:\n%s", want, log.String())
		}
	}
}

func TestDeviceErrors(t *testing.T) {
	requireUblk(t, 0)
	var fail atomic.Value
	target := &faulty{Null: null.New(1<<20, 512)}
	target.fault = func(r *queue.Request, at string) error {
		if err, ok := fail.Load().(error); ok && at == "work" && r.Off == 4096 {
			return err
		}
		return nil
	}
	d := startDevice(t, target, Options{})
	f := openDisk(t, d.Path(), os.O_RDWR)
	for _, c := range []struct {
		err  error
		want unix.Errno
	}{
		{fmt.Errorf("reserve: %w", &queue.StatusError{Errno: unix.ENOSPC, Err: errors.New("full")}), unix.ENOSPC},
		{&queue.StatusError{Errno: unix.EIO, Err: errors.New("hash")}, unix.EIO},
		{&queue.StatusError{Errno: unix.EROFS, Err: errors.New("store")}, unix.EIO}, // the block layer knows no EROFS
		{errors.New("anything"), unix.EIO},
	} {
		fail.Store(fmt.Errorf("%w", c.err))
		if _, err := f.WriteAt(aligned(4096, 0), 4096); !errors.Is(err, c.want) {
			t.Errorf("%v: %v, want %v", c.err, err, c.want)
		}
	}
	f.Close()
}

func TestDeviceReadOnly(t *testing.T) {
	requireUblk(t, 0)
	d := startDevice(t, null.New(1<<20, 4096), Options{ReadOnly: true})
	info, err := Info(t.Context(), d.ID())
	if err != nil || !info.ReadOnly || info.BlockSize != 4096 {
		t.Errorf("info %+v, %v", info, err)
	}
	f := openDisk(t, d.Path(), os.O_RDONLY)
	if _, err := f.ReadAt(aligned(4096, 0), 0); err != nil {
		t.Error(err)
	}
	f.Close()
	if w, err := os.OpenFile(d.Path(), os.O_RDWR, 0); err == nil {
		if _, err := w.Write(make([]byte, 4096)); err == nil {
			t.Error("a read-only device took a write")
		}
		w.Close()
	}
}

// counter is a volume that counts what makes things durable.
type counter struct {
	volume.Volume
	mu     sync.Mutex
	events []string
}

func (c *counter) note(s string) {
	c.mu.Lock()
	c.events = append(c.events, s)
	c.mu.Unlock()
}

func (c *counter) Commit(w *objstore.Write) error { c.note("commit"); return c.Volume.Commit(w) }
func (c *counter) Flush() error                   { c.note("flush"); return c.Volume.Flush() }

// TryFlush is a flush if it does it; else Flush follows.
func (c *counter) TryFlush() error {
	err := c.Volume.TryFlush()
	if err == nil {
		c.note("flush")
	}
	return err
}

func (c *counter) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := strings.Join(c.events, " ")
	c.events = nil
	return s
}

func TestDeviceFlushAndFUA(t *testing.T) {
	requireUblk(t, 0)
	c := &counter{Volume: openVolume(t, 1<<20, 512)}
	d := startDevice(t, volume.New(c), Options{})
	buf := aligned(4096, 0)
	f := openDisk(t, d.Path(), os.O_RDWR)
	if _, err := f.WriteAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	if got := c.take(); got != "commit" {
		t.Errorf("write: %q", got)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := c.take(); got != "flush" {
		t.Errorf("fsync: %q", got)
	}
	f.Close()
	s := openDisk(t, d.Path(), os.O_RDWR|unix.O_DSYNC)
	if _, err := s.WriteAt(buf, 4096); err != nil {
		t.Fatal(err)
	}
	// One flush is the FUA's, the other a request of the kernel's fsync after the write.
	if got, n := c.take(), d.Stats().Flushes; got != "commit flush flush" || n != 2 {
		t.Errorf("FUA write: %q, %d flush requests, want its own commit and flush", got, n)
	}
	s.Close()
}

func TestDeviceStopBusy(t *testing.T) {
	for _, without := range []uint64{0, _UBLK_F_SAFE_STOP_DEV} {
		t.Run(fmt.Sprintf("without %#x", without), func(t *testing.T) {
			requireUblk(t, 0)
			d := startDevice(t, null.New(1<<20, 512), Options{})
			flags := os.O_RDWR
			if without != 0 {
				flags |= unix.O_EXCL // all that an exclusive open sees
			}
			f := openDisk(t, d.Path(), flags)
			if err := stopDisk(t.Context(), d.ctl, d.id, d.flags&^without, false); !errors.Is(err, ErrBusy) {
				t.Fatalf("stop of an open device: %v, want ErrBusy", err)
			}
			if err := d.Stop(t.Context(), false); !errors.Is(err, ErrBusy) {
				t.Fatalf("stop of an open device: %v, want ErrBusy", err)
			}
			if _, err := f.ReadAt(aligned(4096, 0), 0); err != nil {
				t.Errorf("read after the refused stop: %v", err)
			}
			if err := d.Stop(t.Context(), true); err != nil {
				t.Fatalf("stop by force: %v", err)
			}
			if _, err := f.ReadAt(aligned(4096, 0), 0); err == nil {
				t.Error("a stopped device was read")
			}
			f.Close()
			if err := d.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDeviceResize(t *testing.T) {
	requireUblk(t, _UBLK_F_UPDATE_SIZE)
	d := startDevice(t, null.New(1<<20, 4096), Options{})
	if err := d.Resize(t.Context(), 2<<20+512); !errors.Is(err, ErrInvalid) {
		t.Errorf("resize to half a block: %v, want ErrInvalid", err)
	}
	if err := d.Resize(t.Context(), 2<<20); err != nil {
		t.Fatal(err)
	}
	f := openDisk(t, d.Path(), os.O_RDWR)
	if _, err := f.ReadAt(aligned(4096, 0), 2<<20-4096); err != nil {
		t.Error(err)
	}
	f.Close()
}

func TestDeviceNumber(t *testing.T) {
	requireUblk(t, 0)
	d := startDevice(t, null.New(1<<20, 512), Options{})
	_, err := Start(t.Context(), null.New(1<<20, 512), Options{ID: d.ID()})
	if !errors.Is(err, ErrExists) {
		t.Errorf("second device of the same number: %v, want ErrExists", err)
	}
	if err := Delete(t.Context(), 4095, false); !errors.Is(err, ErrNoDevice) {
		t.Errorf("delete of no device: %v, want ErrNoDevice", err)
	}
	if _, err := Recover(t.Context(), d.ID(), null.New(1<<20, 512), Options{}); !errors.Is(err, ErrBusy) {
		t.Errorf("recovery of a served device: %v, want ErrBusy", err)
	}
}

// A command that the driver does not answer gives up in time and leaves nothing behind.
func TestControlTimeout(t *testing.T) {
	requireUblk(t, 0)
	c, err := openControl()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	info := ublksrv_ctrl_dev_info{nr_hw_queues: 1, queue_depth: 1, max_io_buf_bytes: 1 << 20, dev_id: ^uint32(0)}
	if err := c.addDev(t.Context(), &info); err != nil {
		t.Fatal(err)
	}
	lim := null.New(1<<20, 512).Limits()
	lim.EnsureDefaults()
	p := params(&lim, 1<<20)
	if err := c.setParams(t.Context(), int(info.dev_id), &p); err != nil {
		t.Fatal(err)
	}
	// Nobody fetches, so that START_DEV waits.
	began := time.Now()
	err = c.do(t.Context(), command{
		name: "START_DEV", op: _UBLK_U_CMD_START_DEV, id: int(info.dev_id),
		data: uint64(os.Getpid()), limit: 300 * time.Millisecond,
	})
	if !errors.Is(err, ErrTimeout) || time.Since(began) > slowCommand/2 { // what the command may take otherwise
		t.Errorf("START_DEV without queues: %v after %v, want ErrTimeout", err, time.Since(began))
	}
	if err := Delete(t.Context(), int(info.dev_id), false); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// Quiesce hands an open device from one server to the next, under writes.
func TestDeviceQuiesce(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		l := openLoop(t, loopFile(t, 4<<20), loop.Options{})
		d := startDevice(t, l, o)
		w := startWriter(t, d.Path(), 4<<20)
		for i := range 5 {
			time.Sleep(50 * time.Millisecond)
			if err := d.Quiesce(t.Context()); err != nil {
				t.Fatalf("quiesce %d: %v", i, err)
			}
			if err := d.Wait(); err != nil {
				t.Fatal(err)
			}
			info, err := Info(t.Context(), d.ID())
			if err != nil || !info.Orphan() {
				t.Errorf("info %+v, %v: want an orphan", info, err)
			}
			next, err := Recover(t.Context(), d.ID(), l, o)
			if err != nil {
				t.Fatalf("recover %d: %v", i, err)
			}
			d = next
			t.Cleanup(func() { stopDevice(t, next) })
		}
		w.stop()
	})
}

// writer writes and reads back, one block after the other, until stop.
type writer struct {
	t    *testing.T
	f    *os.File
	quit chan struct{}
	done chan struct{}
	n    atomic.Int64
}

func startWriter(t *testing.T, path string, size int64) *writer {
	w := &writer{t: t, f: openDisk(t, path, os.O_RDWR), quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		buf, got := aligned(64<<10, 0), aligned(64<<10, 0)
		for i := 0; ; i++ {
			select {
			case <-w.quit:
				return
			default:
			}
			for j := range buf {
				buf[j] = byte(i + j)
			}
			off := int64(i) * int64(len(buf)) % size
			if _, err := w.f.WriteAt(buf, off); err != nil {
				t.Errorf("write %d: %v", i, err)
				return
			}
			if _, err := w.f.ReadAt(got, off); err != nil || !bytes.Equal(got, buf) {
				t.Errorf("read %d: %v, or other bytes", i, err)
				return
			}
			w.n.Add(1)
		}
	}()
	return w
}

func (w *writer) stop() {
	w.t.Helper()
	n := w.n.Load()
	for deadline := time.Now().Add(time.Minute); w.n.Load() < n+3 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if w.n.Load() < n+3 {
		w.t.Error("the writer does not get on")
	}
	close(w.quit)
	select {
	case <-w.done:
	case <-time.After(time.Minute):
		w.t.Fatal("the writer hangs")
	}
	w.f.Close()
}

// Several devices of one process, each with its thread, do not keep each other from working.
func TestDevicesTogether(t *testing.T) {
	requireUblk(t, 0)
	var writers []*writer
	for range 6 {
		d := startDevice(t, openLoop(t, loopFile(t, 2<<20), loop.Options{}), Options{Depth: 16})
		writers = append(writers, startWriter(t, d.Path(), 2<<20))
	}
	for _, w := range writers {
		w.stop()
	}
}

func TestFeatures(t *testing.T) {
	requireUblk(t, 0)
	list, err := Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, f := range list {
		have[f.Name] = f.Supported
	}
	if len(list) != len(features) || !have["UBLK_F_CMD_IOCTL_ENCODE"] || !have["UBLK_F_USER_RECOVERY"] {
		t.Errorf("features %+v", list)
	}
}

// A copy mode that the kernel lacks is an error that names the feature, and leaves no device
// behind.
func TestDeviceMissingFeature(t *testing.T) {
	requireUblk(t, 0)
	before, err := List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode CopyMode
		flag uint64
		name string
	}{
		{CopyZero, _UBLK_F_AUTO_BUF_REG, "UBLK_F_AUTO_BUF_REG"},
		{CopyUser, _UBLK_F_USER_COPY, "UBLK_F_USER_COPY"},
	} {
		_, err := Start(t.Context(), null.New(1<<20, 512), Options{ID: -1, CopyMode: c.mode, without: c.flag})
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(fmt.Sprint(err), c.name) {
			t.Errorf("%s without %s: %v", c.mode, c.name, err)
		}
	}
	d := startDevice(t, null.New(1<<20, 512), Options{without: _UBLK_F_AUTO_BUF_REG})
	if d.Mode() != CopyUser {
		t.Errorf("auto without %s is %s, want user", "UBLK_F_AUTO_BUF_REG", d.Mode())
	}
	stopDevice(t, d)
	after, err := List(t.Context())
	if err != nil || len(after) != len(before) {
		t.Errorf("devices before %v, after %v, %v", before, after, err)
	}
}
