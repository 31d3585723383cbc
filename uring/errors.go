//go:build linux

package uring

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Errors of this package, for errors.Is.
var (
	// ErrNoIOUring: the kernel has no io_uring, or forbids it to this process.
	ErrNoIOUring = errors.New("io_uring is not available (needs Linux 5.19 or later, and kernel.io_uring_disabled = 0)")
	// ErrTimeout: SubmitAndWaitTimeout timed out.
	ErrTimeout = errors.New("ring wait timed out")
	// ErrClosed: the ring was closed.
	ErrClosed = errors.New("ring is closed")

	// ErrBusy: the Fused still has secondaries in flight.
	ErrBusy = errors.New("fused request is in flight")
	// ErrNoSecondary: a fused request needs at least one secondary.
	ErrNoSecondary = errors.New("fused request has no secondary")
	// ErrTooManySecondaries: more than FusedOptions.MaxSecondaries.
	ErrTooManySecondaries = errors.New("too many secondaries")
	// ErrDirection: a secondary moves data the other way than its primary.
	ErrDirection = errors.New("secondary has another direction than its primary")
	// ErrCancelled: the secondary that this one was linked behind has failed.
	ErrCancelled = fmt.Errorf("secondary was linked behind one that failed: %w", unix.ECANCELED)
	// ErrRange: a secondary is empty or reaches outside the primary's buffer.
	ErrRange = errors.New("secondary is outside the primary's buffer")
	// ErrUnexpectedEOF: a read reached the end of the file before its full length.
	ErrUnexpectedEOF = fmt.Errorf("secondary read past the end of its file: %w", io.ErrUnexpectedEOF)
	// ErrShortWrite: a write returned 0.
	ErrShortWrite = fmt.Errorf("secondary write made no progress: %w", io.ErrShortWrite)
	// ErrOverrun: the kernel reported more bytes than were requested.
	ErrOverrun = errors.New("secondary moved more bytes than requested")
)

// OpError is an error of a kernel operation: the operation's name and its error, most often a
// unix.Errno.
type OpError struct {
	Op  string
	Err error
}

func (e *OpError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the operation's error.
func (e *OpError) Unwrap() error { return e.Err }

func opError(op string, errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return &OpError{Op: op, Err: errno}
}

// setupError names the feature behind a refused io_uring_setup.
func setupError(errno unix.Errno) error {
	if errno == unix.ENOSYS || errno == unix.EPERM {
		return &OpError{Op: "io_uring_setup", Err: fmt.Errorf("%w: %w", ErrNoIOUring, errno)}
	}
	if errno == unix.EINVAL {
		return &OpError{Op: "io_uring_setup", Err: fmt.Errorf("%w (flags of the ring need Linux: SUBMIT_ALL 5.18, "+
			"SQE128 and COOP_TASKRUN 5.19, SINGLE_ISSUER 6.0, DEFER_TASKRUN 6.1)", errno)}
	}
	return opError("io_uring_setup", errno)
}
