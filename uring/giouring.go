//go:build linux && giouring

package uring

import (
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// Giouring is the name of the second implementation. Its builds need -ldflags=-checklinkname=0, as
// the library links to private functions of package syscall.
const Giouring = "giouring"

func init() { implementations[Giouring] = newGiouring }

// foreign is the Ring over giouring v0.0.0-20230826085535-69588b89acb9, its last commit. foreign
// works around the library's omissions and bugs: entries keep the fields of their previous use
// (bytes 48 to 63 and the flags of the operation), files are registered as 64-bit numbers where the
// kernel reads 32-bit ones, the completion queue cannot be sized, no call is retried after a
// signal, and closing a ring of 128-byte entries leaves half of them mapped, which keeps the ring
// alive. The library enters the kernel with Syscall6, so WaitMode has no effect.
type foreign struct {
	tables
	ring     *giouring.Ring
	info     Info
	sqeBytes uintptr
	first    unsafe.Pointer // entry 0, nil until the first GetSQE
	peeked   []*giouring.CompletionQueueEvent
	ts       unix.Timespec
	closed   bool
}

// peekBatch is the largest number of completions in one call of PeekBatchCQE.
const peekBatch = 64

// Structs that are cast to each other here: a difference in size does not compile.
var (
	_ [unsafe.Sizeof(params{})]byte = [unsafe.Sizeof(giouring.Params{})]byte{}
	_ [sqeSize]byte                 = [unsafe.Sizeof(giouring.SubmissionQueueEntry{})]byte{}
	_ [16]byte                      = [unsafe.Sizeof(giouring.CompletionQueueEvent{})]byte{}
)

func newGiouring(o Options) (Ring, error) {
	p := newParams(o)
	r := &foreign{
		ring:     giouring.NewRing(),
		sqeBytes: sqeSize,
		peeked:   make([]*giouring.CompletionQueueEvent, peekBatch),
	}
	// The library's Params have no exported field; the layout is the kernel's.
	if err := r.ring.QueueInitParams(o.Entries, (*giouring.Params)(unsafe.Pointer(&p))); err != nil {
		var errno unix.Errno
		if errors.As(err, &errno) {
			return nil, setupError(errno)
		}
		return nil, &OpError{Op: "io_uring_setup", Err: err}
	}
	fd := r.ring.RingFd()
	r.tables = tables{func(op uint32, arg unsafe.Pointer, n uint32) unix.Errno {
		if r.closed { // the descriptor may be another file's by now
			return unix.EBADF
		}
		_, errno := r.ring.Register(fd, op, arg, n)
		return errno
	}}
	if o.SQE128 {
		r.sqeBytes = bigSQESize
	}
	r.info = Info{FD: fd, SQEntries: p.sqEntries, CQEntries: p.cqEntries, Features: p.features}
	return r, nil
}

func (r *foreign) Info() Info { return r.info }

func (r *foreign) GetSQE() *SQE {
	if r.closed {
		return nil
	}
	s := (*SQE)(unsafe.Pointer(r.ring.GetSQE()))
	if s == nil {
		return nil
	}
	if r.first == nil {
		r.first = unsafe.Pointer(s)
	}
	s.wipe(r.sqeBytes)
	return s
}

func (r *foreign) Submit() (int, error) {
	if r.closed {
		return 0, ErrClosed
	}
	total := 0
	for r.ring.SQReady() > 0 {
		n, err := r.ring.Submit()
		total += int(n)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return total, &OpError{Op: enterOp, Err: err}
		case n == 0:
			return total, &OpError{Op: enterOp, Err: unix.EAGAIN}
		}
	}
	return total, nil
}

func (r *foreign) SubmitAndWait(n uint32, _ WaitMode) error {
	if r.closed {
		return ErrClosed
	}
	n = min(n, r.info.CQEntries)
	for {
		var err error
		if n == 0 {
			_, err = r.ring.SubmitAndGetEvents()
		} else {
			_, err = r.ring.SubmitAndWait(n)
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return &OpError{Op: enterOp, Err: err}
		}
		if r.satisfied(n) {
			return nil
		}
	}
}

func (r *foreign) SubmitAndWaitTimeout(n uint32, d time.Duration) error {
	if r.closed {
		return ErrClosed
	}
	n = min(n, r.info.CQEntries)
	deadline := time.Now().Add(d)
	for {
		// In r, which is on the heap: the library stores the address as an integer.
		r.ts = unix.NsecToTimespec(int64(max(time.Until(deadline), 0)))
		_, err := r.ring.SubmitAndWaitTimeout(n, (*syscall.Timespec)(unsafe.Pointer(&r.ts)), nil)
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ETIME) && !errors.Is(err, unix.EAGAIN) {
			return &OpError{Op: enterOp, Err: err}
		}
		if r.satisfied(n) {
			return nil
		}
		if !time.Now().Before(deadline) {
			return ErrTimeout
		}
	}
}

// satisfied reports whether n completions are ready and the kernel has taken every entry.
func (r *foreign) satisfied(n uint32) bool {
	return r.ring.CQReady() >= n && r.ring.SQReady() == 0
}

func (r *foreign) Reap(cqes []CQE) int {
	if r.closed {
		return 0
	}
	total := 0
	for total < len(cqes) {
		n := r.ring.PeekBatchCQE(r.peeked[:min(len(r.peeked), len(cqes)-total)])
		if n == 0 {
			break
		}
		for i, c := range r.peeked[:n] {
			cqes[total+i] = *(*CQE)(unsafe.Pointer(c))
		}
		total += int(n)
		r.ring.CQAdvance(n)
	}
	return total
}

func (r *foreign) Close() error {
	if r.closed {
		return nil
	}
	if r.sqeBytes == bigSQESize && r.first == nil {
		r.GetSQE()
	}
	r.closed = true
	size := uintptr(r.info.SQEntries) * sqeSize
	page := uintptr(os.Getpagesize())
	unmapped := (size + page - 1) &^ (page - 1)
	r.ring.QueueExit()
	if r.sqeBytes == bigSQESize && 2*size > unmapped {
		_, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(unsafe.Add(r.first, unmapped)), 2*size-unmapped, 0)
		return opError("unmap submission entries", errno)
	}
	return nil
}
