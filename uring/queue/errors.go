package queue

import "errors"

// What a caller may test for with errors.Is.
var (
	// ErrInvalid: options that no queue could have, or a plan that does not fit its request.
	ErrInvalid = errors.New("invalid")
	// ErrPanic: serving a request panicked; the request was failed.
	ErrPanic = errors.New("panic while serving a request")
)
