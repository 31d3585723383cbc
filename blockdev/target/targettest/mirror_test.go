package targettest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/targettest"
	"varve/uring"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

// mirror is a disk of two files with the same bytes. Reads are balanced, and served by the other
// leg when one fails; a write succeeds when both legs have it.
type mirror struct {
	legs  [2]int
	tries int
	fails [2]atomic.Int64 // secondaries of each leg
}

func (m *mirror) Limits() target.Limits {
	return target.Limits{Size: size, Discard: true, Zeroes: true, Cache: true, DMAAlign: 512}
}

func (m *mirror) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler { return &mirrorHandler{mirror: m} }, FDs: m.legs[:]}, nil
}

type mirrorHandler struct {
	*mirror
	tries  int
	secs   []leg // in flight
	failed []leg
}

// leg is a secondary of a leg: its number for Request.Result.
type leg struct{ leg, sec int }

func (h *mirrorHandler) Start(r *queue.Request) (queue.Action, error) {
	h.tries, h.secs = 0, h.secs[:0]
	switch r.Op {
	case queue.OpRead:
		h.add(r, int(r.Off>>12)&1)
	case queue.OpWrite, queue.OpFlush, queue.OpDiscard, queue.OpWriteZeroes:
		h.add(r, 0)
		h.add(r, 1)
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
	return queue.Submit, nil
}

// add adds what the request asks for on one leg.
func (h *mirrorHandler) add(r *queue.Request, l int) {
	fd := h.legs[l]
	i := 0
	switch r.Op {
	case queue.OpRead, queue.OpWrite:
		i = r.Secondary(fd, r.Off, 0, r.Len)
	case queue.OpDiscard, queue.OpWriteZeroes:
		i = r.Add(uring.Secondary{
			Op: uring.SecondaryFallocate, FD: int32(fd), FileOff: uint64(r.Off), Len: uint32(r.Len),
			Flags: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, Link: r.FUA,
		})
	default:
	}
	if r.Op == queue.OpFlush || r.FUA && r.Op == queue.OpWriteZeroes {
		i = r.Add(uring.Secondary{Op: uring.SecondaryFsync, FD: int32(fd), Flags: uring.IORING_FSYNC_DATASYNC})
	}
	if r.FUA && r.Op == queue.OpWrite {
		r.SetFlags(unix.RWF_DSYNC)
	}
	h.secs = append(h.secs, leg{l, i})
}

func (h *mirrorHandler) Finish(r *queue.Request, err error) (queue.Action, error) {
	h.failed = h.failed[:0]
	for _, s := range h.secs {
		if _, serr := r.Result(s.sec); serr != nil {
			h.fails[s.leg].Add(1)
			h.failed = append(h.failed, s)
		}
	}
	if err == nil && len(h.failed) == 0 {
		return queue.Answer, nil
	}
	if h.tries++; err == nil || h.tries > h.mirror.tries {
		return queue.Answer, fmt.Errorf("%d legs have failed: %w", len(h.failed), err)
	}
	h.secs = h.secs[:0]
	for _, s := range h.failed {
		if r.Op == queue.OpRead {
			s.leg = 1 - s.leg
		}
		h.add(r, s.leg)
	}
	return queue.Submit, nil
}

func (h *mirrorHandler) Work(context.Context, *queue.Request) (queue.Action, error) {
	return queue.Answer, queue.ErrInvalid
}

func (h *mirrorHandler) Drop(*queue.Request) {}

func TestMirror(t *testing.T) {
	targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target {
		m := &mirror{legs: [2]int{newFile(t), newFile(t)}, tries: 20}
		t.Cleanup(func() {
			var content [2][]byte
			for i, fd := range m.legs {
				content[i] = make([]byte, size)
				aligned := content[i]
				if n, err := unix.Pread(reopen(t, fd), aligned, 0); n != size || err != nil {
					t.Errorf("read leg %d: %d, %v", i, n, err)
				}
			}
			if !bytes.Equal(content[0], content[1]) {
				t.Error("the legs differ")
			}
		})
		return m
	}})
}

// reopen opens a leg without O_DIRECT.
func reopen(t *testing.T, fd int) int {
	n, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(n) })
	return n
}

// With one leg gone, each failure is that leg's; reads are served by the other one, writes say what
// has failed.
func TestMirrorOfOneLeg(t *testing.T) {
	for _, lending := range queuetest.Lendings {
		m := &mirror{legs: [2]int{newFile(t), 1 << 20}, tries: 1}
		d := queuetest.Start(t, queuetest.Options{Lending: lending, NewPart: (&unregistered{m}).NewPart})
		data := bytes.Repeat([]byte("mirrored"), 1024)
		if err := d.Do(&queuetest.IO{Op: queue.OpWrite, Data: data}); !errors.Is(err, unix.EBADF) {
			t.Errorf("%s: a write of one leg: %v, want EBADF", lending, err)
		}
		got := make([]byte, len(data))
		for off := int64(0); off < 8192; off += 4096 {
			if err := d.Do(&queuetest.IO{Op: queue.OpRead, Off: off, Data: got[off : off+4096]}); err != nil {
				t.Errorf("%s: read at %d: %v", lending, off, err)
			}
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%s: the leg that is there was not read", lending)
		}
		if a, b := m.fails[0].Load(), m.fails[1].Load(); a != 0 || b != 3 { // the write, its second try, a read
			t.Errorf("%s: failures of the legs %d and %d, want 0 and 3", lending, a, b)
		}
	}
}

// unregistered does not register the legs: one of them is no file.
type unregistered struct{ *mirror }

func (u *unregistered) NewPart(q *queue.Queue) (queue.Part, error) {
	p, err := u.mirror.NewPart(q)
	return queue.Handlers{New: func() queue.Handler { return p.NewHandler(0) }}, err
}
