package blockdev

import (
	"context"
	"fmt"

	"varve/uring"
)

// Target is the disk behind a device: where its requests' bytes lie.
type Target interface {
	// Limits describe the disk. They do not change while it is attached, the size excepted (Device.Resize).
	Limits() Limits
	// NewHandler makes what serves one tag of one queue. Each handler serves one request at a time, and may keep
	// what it needs from one call to the next.
	NewHandler() Handler
}

// FileTarget is a Target all of whose secondaries go to the same few files. They are registered with the rings, which
// saves looking them up for each.
type FileTarget interface {
	Target
	// Files are open as long as the device is served.
	Files() []int
}

// Handler serves the requests of one tag:
//
//	         Start                    Finish
//	request -------> Answer       .---------> Answer
//	            |--> Submit ------'      `--> Handoff
//	            `--> Handoff ---> Work -----> Answer, Submit or Again (= Start)
//	                 or Await
//
// Start and Finish run on the queue's thread and must not block: a queue that waits serves nobody. An error
// beside any action is the answer. Only one of the methods runs at a time.
type Handler interface {
	// Start plans the request: it adds the secondaries and zeroes that cover all of r, and asks for Submit; or
	// it answers; or it asks for Work.
	Start(r *Request) (Action, error)
	// Finish is called once after each Submit, when all that was added has been transferred, or when err says
	// what has failed. Nothing of the request is in flight then.
	Finish(r *Request, err error) (Action, error)
	// Work may block. It runs on a worker goroutine. ctx ends when the device is stopped.
	Work(ctx context.Context, r *Request) (Action, error)
	// Drop gives up whatever the handler holds for r, whose serving panicked. Nothing is in flight.
	Drop(r *Request)
}

// Action is what a handler wants to be done next.
type Action uint8

// Actions.
const (
	Answer  Action = iota // the request is done
	Submit                // transfer what was added to the request, then call Finish
	Handoff               // call Work on a goroutine that may block
	Await                 // the same, and it may take long: what other requests need is done meanwhile
	Again                 // call Start again
)

// Op is what a request asks for.
type Op uint8

// Operations.
const (
	OpRead Op = iota
	OpWrite
	OpFlush
	OpDiscard
	OpWriteZeroes
)

var opNames = [...]string{OpRead: "read", OpWrite: "write", OpFlush: "flush", OpDiscard: "discard", OpWriteZeroes: "write zeroes"}

func (o Op) String() string { return opNames[o] }

// Request is one block request while the daemon owns it.
type Request struct {
	Op      Op
	FUA     bool  // answer only when it is durable
	NoUnmap bool  // OpWriteZeroes: keep the space allocated, where there is such a thing
	Off     int64 // bytes
	Len     int   // bytes; 0 for OpFlush

	secs  []uring.Secondary
	zeros []span
	fixed []int32              // of a FileTarget
	give  func(p []byte) error // see Fill
}

// span is a part of a request's buffer.
type span struct{ off, len int }

// Secondary adds a transfer between the request's bytes from bufOff on and a file. The file stays open until
// Finish. Files opened with O_DIRECT want fileOff and length, and often bufOff, aligned.
func (r *Request) Secondary(fd int, fileOff int64, bufOff, length int) {
	s := uring.Secondary{Dir: r.direction(), FD: int32(fd), FileOff: uint64(fileOff), BufOff: uint32(bufOff), Len: uint32(length)}
	for i, f := range r.fixed {
		if f == s.FD {
			s.FixedFile, s.FD = true, int32(targetFile+i)
			break
		}
	}
	r.secs = append(r.secs, s)
}

// durable makes the transfers added so far durable before Finish, as a write with RWF_DSYNC is.
func (r *Request) durable(flags uint32) {
	for i := range r.secs {
		r.secs[i].RWFlags |= flags
	}
}

// Zeroes says that length bytes of a read from bufOff on are zero.
func (r *Request) Zeroes(bufOff, length int) {
	r.zeros = append(r.zeros, span{bufOff, length})
}

// Fill gives a read its bytes, all of r.Len, from a buffer: for a handler that had to look at them, in Work. No
// transfer follows.
func (r *Request) Fill(p []byte) error {
	if r.Op != OpRead || len(p) != r.Len {
		return fmt.Errorf("%w: %d bytes for a %v of %d", ErrInvalid, len(p), r.Op, r.Len)
	}
	return r.give(p)
}

func (r *Request) direction() uring.Direction {
	if r.Op == OpWrite {
		return uring.DirWrite
	}
	return uring.DirRead
}

// hasData says whether the request lends a buffer.
func (r *Request) hasData() bool { return r.Op == OpRead || r.Op == OpWrite }

// covered counts the bytes that secondaries and zeroes were added for. The driver takes any positive answer as
// complete success, so that a plan with a gap would hand out the bytes that were in the pages before.
func (r *Request) covered() int {
	n := 0
	for i := range r.secs {
		n += int(r.secs[i].Len)
	}
	for i := range r.zeros {
		n += r.zeros[i].len
	}
	return n
}

// reset readies r for the next plan. The memory is kept.
func (r *Request) reset() {
	r.secs, r.zeros = r.secs[:0], r.zeros[:0]
}
