package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

// memVolume is a volume whose bytes lie in a file where the request says; the second half of each
// read may be a hole.
type memVolume struct {
	fd   int
	hole bool

	mu     sync.Mutex // guards what follows
	events bytes.Buffer
	busy   error
	roomy  int // the file from the first wait on; 0: the same
}

func newMemVolume(t *testing.T) *memVolume {
	f, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	return &memVolume{fd: int(f.Fd())}
}

func (*memVolume) Size() int64    { return 1 << 20 }
func (*memVolume) BlockSize() int { return 512 }
func (v *memVolume) Plan(off int64, length int, p *objstore.Plan) error {
	if err := v.isBusy(); err != nil {
		return err
	}
	p.Pieces = append(p.Pieces[:0], objstore.Piece{FD: v.fd, FileOff: off, Len: length / 2},
		objstore.Piece{Hole: v.hole, FD: v.fd, FileOff: off + int64(length/2), BufOff: length / 2, Len: length - length/2})
	return nil
}

func (v *memVolume) Load(context.Context, int64, int) error { v.say("load "); return nil }
func (v *memVolume) Release(*objstore.Plan)                 { v.say("release ") }
func (v *memVolume) Reserve(off int64, length int, w *objstore.Write) error {
	if err := v.isBusy(); err != nil {
		return err
	}
	*w = objstore.Write{FD: v.fd, FileOff: off, Off: off, Len: length}
	return nil
}
func (v *memVolume) Commit(*objstore.Write) error { v.say("commit "); return nil }
func (v *memVolume) Abort(*objstore.Write)        { v.say("abort ") }
func (v *memVolume) TryZero(_, _ int64) error {
	if err := v.isBusy(); err != nil {
		return err
	}
	v.say("zero ")
	return nil
}
func (v *memVolume) Wait(context.Context, int64, int64, bool) error { v.say("wait "); return nil }
func (v *memVolume) Flush() error                                   { v.say("flush "); return nil }
func (v *memVolume) TryFlush() error                                { return objstore.ErrBusy }

func (v *memVolume) isBusy() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.busy
}

// say notes a call; what waits for the volume finds it ready afterwards.
func (v *memVolume) say(s string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.events.WriteString(s)
	if s == "load " || s == "wait " {
		v.busy = nil
	}
	if s == "wait " && v.roomy != 0 {
		v.fd = v.roomy
	}
}

// Which calls a request makes of the volume, and in which order.
func TestVolumeCalls(t *testing.T) {
	for _, c := range []struct {
		name string
		io   queuetest.IO
		busy error
		fail bool // the volume's file
		want string
		err  error
	}{
		{"read", queuetest.IO{Op: queue.OpRead}, nil, false, "release ", nil},
		{"read unloaded", queuetest.IO{Op: queue.OpRead}, objstore.ErrNotLoaded, false, "load release ", nil},
		{"read corrupt", queuetest.IO{Op: queue.OpRead}, objstore.ErrCorrupt, false, "", objstore.ErrCorrupt},
		{"read failed", queuetest.IO{Op: queue.OpRead}, nil, true, "release ", unix.EBADF},
		{"write", queuetest.IO{Op: queue.OpWrite}, nil, false, "commit ", nil},
		{"write FUA", queuetest.IO{Op: queue.OpWrite, FUA: true}, nil, false, "commit flush ", nil},
		{"write busy", queuetest.IO{Op: queue.OpWrite}, objstore.ErrBusy, false, "wait commit ", nil},
		{"write full", queuetest.IO{Op: queue.OpWrite}, objstore.ErrNoSpace, false, "", objstore.ErrNoSpace},
		{"write failed", queuetest.IO{Op: queue.OpWrite, FUA: true}, nil, true, "abort ", unix.EBADF},
		{"flush", queuetest.IO{Op: queue.OpFlush}, nil, false, "flush ", nil},
		{"discard", queuetest.IO{Op: queue.OpDiscard, Len: 4096}, nil, false, "zero ", nil},
		{"discard busy", queuetest.IO{Op: queue.OpDiscard, Len: 4096}, objstore.ErrBusy, false, "wait zero ", nil},
		{"write zeroes", queuetest.IO{Op: queue.OpWriteZeroes, Len: 4096, NoUnmap: true}, nil, false, "zero ", nil},
		{"write zeroes FUA", queuetest.IO{Op: queue.OpWriteZeroes, Len: 4096, FUA: true}, nil, false, "zero flush ", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newMemVolume(t)
			v.busy = c.busy
			if c.fail {
				v.fd = -1
			}
			d := queuetest.Start(t, queuetest.Options{NewPart: New(v).NewPart})
			c.io.Off = 4096
			if c.io.Op == queue.OpRead || c.io.Op == queue.OpWrite {
				c.io.Data = make([]byte, 4096)
			}
			if err := d.Do(&c.io); !errors.Is(err, c.err) {
				t.Errorf("answered with %v, want %v", err, c.err)
			}
			if got := v.events.String(); got != c.want {
				t.Errorf("calls %q, want %q", got, c.want)
			}
		})
	}
}

// A write that meets a full disk waits for room and is tried again, once; the next one does so too.
func TestWriteMeetsFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, c := range []struct {
		name  string
		comes bool // room
		want  string
		err   error
	}{
		{"room comes", true, "abort wait commit flush ", nil},
		{"no room comes", false, "abort wait abort ", unix.ENOSPC},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newMemVolume(t)
			if c.comes {
				v.roomy = v.fd
			}
			d := queuetest.Start(t, queuetest.Options{NewPart: New(v).NewPart, Depth: 1})
			for range 2 {
				v.mu.Lock()
				v.fd = int(full.Fd())
				v.mu.Unlock()
				v.events.Reset()
				if err := d.Do(&queuetest.IO{Op: queue.OpWrite, Off: 4096, Data: make([]byte, 4096), FUA: true}); !errors.Is(err, c.err) {
					t.Errorf("answered with %v, want %v", err, c.err)
				}
				if got := v.events.String(); got != c.want {
					t.Errorf("calls %q, want %q", got, c.want)
				}
			}
		})
	}
}

// unrecorded is a memVolume that does not record what is released and committed.
type unrecorded struct{ *memVolume }

func (unrecorded) Release(*objstore.Plan)       {}
func (unrecorded) Commit(*objstore.Write) error { return nil }

// Serving a request of a volume allocates nothing. The count is that of the whole process, which
// allocates a little beside.
func TestVolumeAllocations(t *testing.T) {
	v := newMemVolume(t)
	v.hole = true
	d := queuetest.Start(t, queuetest.Options{NewPart: New(unrecorded{v}).NewPart})
	for _, op := range []queue.Op{queue.OpRead, queue.OpWrite} {
		const n = 2000
		io := queuetest.IO{Op: op, Data: make([]byte, 16<<10)}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			if err := d.Do(&io); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if got := after.Mallocs - before.Mallocs; got > n/20 {
			t.Errorf("%v: %d allocations for %d requests, want next to none", op, got, n)
		}
	}
}

// fullVolume has no room for writes until it is told.
type fullVolume struct {
	*memVolume
	room chan struct{}
}

func (v *fullVolume) Reserve(off int64, length int, w *objstore.Write) error {
	select {
	case <-v.room:
		return v.memVolume.Reserve(off, length, w)
	default:
		return objstore.ErrBusy
	}
}

func (v *fullVolume) Wait(context.Context, int64, int64, bool) error { <-v.room; return nil }

// However many writes wait for room, a read that needs a worker, and a flush, get one: settling,
// which makes the room, may take longer than a file system is patient.
func TestReadsPassWritesThatWait(t *testing.T) {
	const depth, writes = 64, 60
	v := &fullVolume{newMemVolume(t), make(chan struct{})}
	v.busy = objstore.ErrNotLoaded
	d := queuetest.Start(t, queuetest.Options{Depth: depth, MaxIO: 4096, NewPart: New(v).NewPart})
	var waiting sync.WaitGroup
	for i := range writes {
		waiting.Go(func() {
			if err := d.Do(&queuetest.IO{Op: queue.OpWrite, Off: 4096 * int64(i), Data: make([]byte, 4096)}); err != nil {
				t.Errorf("write %d: %v", i, err)
			}
		})
	}
	for d.Server().Stats().Handoffs < writes {
		time.Sleep(time.Millisecond)
	}
	served := make(chan error, 2)
	for _, op := range []queue.Op{queue.OpRead, queue.OpFlush} {
		go func() { served <- d.Do(&queuetest.IO{Op: op, Len: 4096}) }()
	}
	for range 2 {
		select {
		case err := <-served:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Errorf("a read or a flush is not served while %d writes wait for room", writes)
		}
	}
	if n := d.Server().Stats().Writes; n != writes {
		t.Errorf("%d writes have come, want %d", n, writes)
	}
	close(v.room)
	waiting.Wait()
}

// The errno that answers a request that the store has refused, whatever else the error wraps.
func TestStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want unix.Errno
	}{
		{fmt.Errorf("reserve: %w", objstore.ErrNoSpace), unix.ENOSPC},
		{&objstore.CorruptError{Err: unix.ENOMEM}, unix.EIO},
		{fmt.Errorf("commit: %w", objstore.ErrReadOnly), unix.EROFS},
	} {
		var s *queue.StatusError
		if err := status(c.err); !errors.As(err, &s) || s.Errno != c.want || !errors.Is(err, c.err) || err.Error() != c.err.Error() {
			t.Errorf("%v: %#v, want errno %v", c.err, err, c.want)
		}
	}
	for _, err := range []error{nil, unix.ENOMEM, objstore.ErrBusy} {
		var s *queue.StatusError
		if got := status(err); !errors.Is(got, err) || errors.As(got, &s) {
			t.Errorf("%v became %#v", err, got)
		}
	}
}
