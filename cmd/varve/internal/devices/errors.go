package devices

import "errors"

// Errors of transports.
var (
	// ErrCannotLeave: a device of this kind ends with its daemon.
	ErrCannotLeave = errors.New("it cannot outlive its daemon")
	// ErrUnquiet: the device waits for the next daemon, with requests under way.
	ErrUnquiet = errors.New("it did not quiesce, and waits as after a crash")
	// ErrUnfit: the device can never be served.
	ErrUnfit = errors.New("the device cannot be served")
	// ErrUnanswered: the kernel does not answer for the device.
	ErrUnanswered = errors.New("the kernel does not answer")
	// ErrForeign: a living process serves the device.
	ErrForeign = errors.New("another daemon's")
)
