//go:build linux

package uring

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// enterOp names the system call in OpError.
const enterOp = "io_uring_enter"

func (r *mapped) Submit() (int, error) {
	if r.entries == 0 {
		return 0, ErrClosed
	}
	if err := r.takeLost(); err != nil {
		return 0, err
	}
	total := 0
	for {
		left := r.publish()
		if left == 0 {
			return total, nil
		}
		n, errno := r.enterRaw(left, 0, 0)
		switch errno {
		case 0:
			if n == 0 { // the kernel accepted nothing and returned no reason
				return total, &OpError{Op: enterOp, Err: unix.EAGAIN}
			}
			total += int(n)
		case unix.EINTR:
		default:
			return total, opError(enterOp, errno)
		}
	}
}

func (r *mapped) SubmitAndWait(n uint32, mode WaitMode) error {
	if r.entries == 0 {
		return ErrClosed
	}
	if err := r.takeLost(); err != nil {
		return err
	}
	n = min(n, r.info.CQEntries)
	raw := mode != WaitHandoff && r.mayHold
	for {
		left := r.publish()
		var errno unix.Errno
		if raw {
			_, errno = r.enterRaw(left, n, IORING_ENTER_GETEVENTS)
		} else {
			_, errno = r.enterBlocking(left, n, IORING_ENTER_GETEVENTS, nil, 0)
		}
		if errno != 0 && errno != unix.EINTR {
			return opError(enterOp, errno)
		}
		// A signal during the wait of an enter that also submitted is hidden by the count of
		// submissions (io_uring_enter in io_uring/io_uring.c, 7.3), so only the completion queue
		// tells whether the wait is over.
		if r.ready() >= n && r.publish() == 0 {
			return nil
		}
		r.interrupted++
		if mode == WaitIdle && r.ready() == 0 {
			// Ten milliseconds without work (the runtime's preemption signal): from now on, hand
			// the scheduler's slot off.
			raw = false
		}
	}
}

func (r *mapped) SubmitAndWaitTimeout(n uint32, d time.Duration) error {
	if r.entries == 0 {
		return ErrClosed
	}
	if err := r.takeLost(); err != nil {
		return err
	}
	n = min(n, r.info.CQEntries)
	deadline := time.Now().Add(d)
	for {
		left := r.publish()
		arg := r.timeout(time.Until(deadline))
		_, errno := r.enterBlocking(left, n, IORING_ENTER_GETEVENTS|IORING_ENTER_EXT_ARG, arg, unsafe.Sizeof(r.arg))
		if errno != 0 && errno != unix.EINTR && errno != unix.ETIME {
			return opError(enterOp, errno)
		}
		if r.ready() >= n && r.publish() == 0 {
			return nil
		}
		if !time.Now().Before(deadline) {
			return ErrTimeout
		}
	}
}

// enterRaw enters the kernel without telling the scheduler. It is not inlined, so that each call is
// a point where the goroutine can yield to a stop-the-world that was requested while the thread was
// in the kernel.
//
//go:noinline
func (r *mapped) enterRaw(submit, wait, flags uint32) (uint32, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(submit), uintptr(wait), uintptr(flags), 0, 0)
	return uint32(n), errno
}

// enterBlocking enters the kernel as a blocking system call: the scheduler may hand the slot to
// another thread meanwhile. The wait is not accounted as I/O wait: as fetches are always in flight,
// the kernel would otherwise show an idle device's CPU as waiting for I/O.
func (r *mapped) enterBlocking(submit, wait, flags uint32, arg unsafe.Pointer, size uintptr) (uint32, unix.Errno) {
	r.blocking++
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(submit), uintptr(wait), uintptr(flags|r.noIOWait), uintptr(arg), size)
	return uint32(n), errno
}

// Transient reports whether err, from Submit or a wait, may go away when retried: the kernel is
// short of memory or of room for completions.
func Transient(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINTR)
}
