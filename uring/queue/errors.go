package queue

import (
	"errors"

	"golang.org/x/sys/unix"
)

// What a caller may test for with errors.Is.
var (
	// ErrInvalid: options that no queue could have, or a plan that does not fit its request.
	ErrInvalid = errors.New("invalid")
	// ErrPanic: serving a request panicked; the request was failed.
	ErrPanic = errors.New("panic while serving a request")
)

// StatusError is an error for which a handler has chosen the errno that answers the request. A
// driver translates all other errors by itself.
type StatusError struct {
	Errno unix.Errno
	Err   error
}

func (e *StatusError) Error() string { return e.Err.Error() }

// Unwrap returns the error behind the errno.
func (e *StatusError) Unwrap() error { return e.Err }
