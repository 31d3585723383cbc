package queue

import (
	"fmt"

	"varve/uring"
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

// Request is one request while this process owns it. The driver writes the exported fields; to handlers they are to
// read.
type Request struct {
	Op      Op
	FUA     bool  // answer only when it is durable
	NoUnmap bool  // OpWriteZeroes: keep the space allocated, where there is such a thing
	Off     int64 // bytes
	Len     int   // bytes; 0 for OpFlush

	buffer buffer
	base   uint64 // registered: what the kernel calls the first byte
	mem    []byte // mapped, and copied while the request has a bounce buffer: its bytes

	secs  []uring.Secondary
	zeros []span
	tag   uint16
	queue *Queue
}

// buffer says where the bytes of a request are; see the package comment.
type buffer uint8

const (
	registered buffer = iota
	mapped
	copied
)

// span is a part of a request's buffer.
type span struct{ off, len int }

// Registered is for a driver: the request's pages are in the ring's table of buffers at the slot of the tag. base is
// what the kernel calls the first byte: 0 for lent pages, the memory's address for memory that was registered.
func (r *Request) Registered(base uint64) { r.buffer, r.base, r.mem = registered, base, nil }

// Mapped is for a driver: p is where the request's bytes are, or will be read from at the commit. The memory stays the
// driver's, which keeps it until Close.
func (r *Request) Mapped(p []byte) { r.buffer, r.mem = mapped, p }

// Copied is for a driver that is a Copier: there is no other way to the request's bytes.
func (r *Request) Copied() { r.buffer, r.mem = copied, nil }

// Secondary adds a transfer between the request's bytes from bufOff on and a file. The file stays open until
// Finish. Files opened with O_DIRECT want fileOff and length, and often bufOff, aligned.
func (r *Request) Secondary(fd int, fileOff int64, bufOff, length int) {
	s := uring.Secondary{Op: uring.SecondaryOp(r.direction()), FD: int32(fd), FileOff: uint64(fileOff), BufOff: uint32(bufOff), Len: uint32(length)}
	for i, f := range r.queue.fixed {
		if f == s.FD {
			s.FixedFile, s.FD = true, int32(partFile+i)
			break
		}
	}
	r.secs = append(r.secs, s)
}

// SetFlags gives the transfers added so far flags of preadv2(2) and pwritev2(2): RWF_DSYNC makes them durable before
// Finish.
func (r *Request) SetFlags(rwf uint32) {
	for i := range r.secs {
		r.secs[i].Flags |= rwf
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
	if r.buffer == mapped {
		copy(r.mem, p)
		return nil
	}
	return r.queue.copyOut(r.tag, p)
}

func (r *Request) direction() uring.Direction {
	if r.Op == OpWrite {
		return uring.DirWrite
	}
	return uring.DirRead
}

// HasData says whether the request lends a buffer.
func (r *Request) HasData() bool { return r.Op == OpRead || r.Op == OpWrite }

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
