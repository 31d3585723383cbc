package queue

import (
	"errors"

	"varve/uring"
)

// DriverFile is the slot of the driver's file, Options.File, in the ring's table of files.
const DriverFile = 0

// The other slots of the table: the source of zeroes, then the part's files.
const (
	zeroFile = 1 // /dev/zero
	partFile = 2
)

// What Describe returns besides the answer of a request.
var (
	// ErrGone: the driver took the fetch back in order, because the device is being stopped. There
	// is no request, and the tag is not offered again.
	ErrGone = errors.New("fetch was taken back")
	// ErrBroken: the queue can't continue. It ends with the error that wraps this one.
	ErrBroken = errors.New("queue is broken")
)

// Driver is the kernel driver's end of one queue. Its methods run on the queue's thread and do not
// block.
type Driver interface {
	// Fetch prepares the entry that offers a tag to the driver for the first time. The user data is
	// the queue's, and set after the call, as it is after Commit.
	Fetch(sqe *uring.SQE, tag uint16)
	// Describe reads what has come for the tag into r: all exported fields, and where the bytes
	// are, by one of Registered, Copied and Mapped. res is the result of the completed fetch. An
	// error is the answer of the request, unless it is ErrGone or wraps ErrBroken.
	Describe(tag uint16, res int32, r *Request) error
	// Commit prepares the entry that answers the request of the tag, with its full length or with
	// err, and offers the tag again.
	Commit(sqe *uring.SQE, tag uint16, r *Request, err error)
	// Close releases what the driver made for the queue. idle is false when the ring has failed
	// with secondaries in flight or requests at workers: the memory of Mapped requests has to stay
	// then.
	Close(idle bool) error
}

// Copier is a Driver that reaches the bytes of its requests by copying, as ublk's user copy does.
// The methods are called by the queue's thread and by workers. They move all of p, or return an
// error.
type Copier interface {
	// CopyIn copies the bytes of a write from off on into p.
	CopyIn(tag uint16, p []byte, off int) error
	// CopyOut copies p to the bytes of a read from off on.
	CopyOut(tag uint16, p []byte, off int) error
}
