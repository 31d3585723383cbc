package queue

import (
	"fmt"

	"varve/uring"
)

// Request is one request while this process owns it. The driver writes the exported fields; to
// handlers they are to read, but for Appended.
//
// A handler accounts for every byte of a request with data: by a secondary on a part of the lent
// buffer that succeeds, by Zeroes, by Fill or Take, or by MoveNothing for all of them. The union
// counts: two legs of a mirror may cover the same bytes. An answer without an error whose bytes are
// not all accounted for becomes ErrInvalid, because the driver would take it as complete success
// and hand out the bytes that were in the pages before.
type Request struct {
	Op      Op
	FUA     bool  // answer only when the bytes are durable
	NoUnmap bool  // OpWriteZeroes: keep the space allocated, where there is such a thing
	Off     int64 // bytes
	Len     int   // bytes; 0 for an operation that has none

	// Appended is the handler's: where an OpZoneAppend has put the bytes, in bytes from the start
	// of the disk.
	Appended int64

	buffer  buffer
	base    uint64 // registered: what the kernel calls the first byte
	mem     []byte // mapped, and copied while the request has a bounce buffer: its bytes
	ready   bool   // mem is: it holds the bytes of a write
	nothing bool   // MoveNothing

	secs   []uring.Secondary // all since the request came, or was started again
	next   int               // the first of secs that was not started yet
	zeros  []span            // not in lent pages: to be cleared before the next transfer
	done   []span            // cleared, filled or taken
	beside bool              // Fill has gone past mem, which is not all of the answer then
	tag    uint16
	queue  *Queue
}

// buffer says where the bytes of a request are; see the package comment.
type buffer uint8

const (
	registered buffer = iota
	mapped
	copied
)

// span is a part of a request's buffer.
type span struct {
	off, len int
	inMem    bool // done in Request.mem, which has to be handed over
}

// Registered is for a driver: the request's pages are in the ring's table of buffers at the slot of
// the tag. base is what the kernel calls the first byte: 0 for lent pages, the memory's address for
// memory that was registered.
func (r *Request) Registered(base uint64) { r.buffer, r.base, r.mem = registered, base, nil }

// Mapped is for a driver: p is where the request's bytes are, or will be read from at the commit.
// The memory stays the driver's, which keeps it until Close.
func (r *Request) Mapped(p []byte) { r.buffer, r.mem = mapped, p }

// Copied is for a driver that is a Copier: there is no other way to the request's bytes.
func (r *Request) Copied() { r.buffer, r.mem = copied, nil }

// Tag is the request's tag in its queue.
func (r *Request) Tag() uint16 { return r.tag }

// HasData reports whether the request lends a buffer.
func (r *Request) HasData() bool { return r.Op.Data() != NoData }

// Secondary adds a transfer between the request's bytes from bufOff on and a file, the way that the
// request's data goes, and returns its number for Result. The file stays open until Finish. Files
// opened with O_DIRECT want fileOff and length, and often bufOff, aligned.
func (r *Request) Secondary(fd int, fileOff int64, bufOff, length int) int {
	return r.Add(uring.Secondary{
		Op: uring.SecondaryOp(directions[r.Op.Data()]), FD: int32(fd),
		FileOff: uint64(fileOff), BufOff: uint32(bufOff), Len: uint32(length),
	})
}

// Add adds any secondary, and returns its number for Result. A file of the part (Part.Files) is
// found in the ring's table. Numbers are the request's until it is answered or started again,
// Submit or not.
func (r *Request) Add(s uring.Secondary) int {
	for i, f := range r.queue.fixed {
		if f == s.FD {
			s.FixedFile, s.FD = true, int32(partFile+i)
			break
		}
	}
	r.secs = append(r.secs, s)
	return len(r.secs) - 1
}

// Result is what a secondary has moved, in bytes, and its error: for Finish, after the Submit that
// transferred it.
func (r *Request) Result(i int) (n int, err error) { return r.secs[i].Moved(), r.secs[i].Err() }

// SetFlags sets flags of all secondaries added so far: with RWF_DSYNC a write is durable before
// Finish.
func (r *Request) SetFlags(flags uint32) {
	for i := range r.secs {
		r.secs[i].Flags |= flags
	}
}

// Zeroes says that length bytes of a read from bufOff on are zero. In lent pages that is a
// secondary like any other, a read of /dev/zero: with the others in one enter, and measured faster
// than a copy of zeroes.
func (r *Request) Zeroes(bufOff, length int) {
	if r.buffer != registered {
		r.zeros = append(r.zeros, span{off: bufOff, len: length, inMem: true})
		return
	}
	r.secs = append(r.secs, uring.Secondary{
		Op: uring.SecondaryRead, FixedFile: true, FD: zeroFile, BufOff: uint32(bufOff), Len: uint32(length),
	})
}

// Fill copies p to the bytes of a read from off on: for a handler that had to look at them. It
// copies at once.
func (r *Request) Fill(p []byte, off int) error {
	if r.Op.Data() != DataIn || off < 0 || off > r.Len-len(p) {
		return fmt.Errorf("%w: fill of %d bytes at %d of a %v of %d", ErrInvalid, len(p), off, r.Op, r.Len)
	}
	inMem := r.buffer == mapped || r.buffer == copied && r.ready
	if inMem {
		copy(r.mem[off:], p)
	} else if err := r.queue.copyOut(r.tag, p, off); err != nil {
		return err
	}
	r.beside = r.beside || !inMem
	r.done = append(r.done, span{off, len(p), inMem})
	return nil
}

// Take is the twin of Fill for a write: it copies the request's bytes from off on into memory, for
// a handler that compresses, encrypts or compares them.
func (r *Request) Take(p []byte, off int) error {
	if r.Op.Data() != DataOut || off < 0 || off > r.Len-len(p) {
		return fmt.Errorf("%w: take of %d bytes at %d of a %v of %d", ErrInvalid, len(p), off, r.Op, r.Len)
	}
	if r.buffer == mapped || r.buffer == copied && r.ready {
		copy(p, r.mem[off:])
	} else if err := r.queue.copyIn(r.tag, p, off); err != nil {
		return err
	}
	r.done = append(r.done, span{off: off, len: len(p)})
	return nil
}

// MoveNothing says that the answer moves no bytes, on purpose: reads leave the reader's memory as
// it was, the bytes of writes are not looked at.
func (r *Request) MoveNothing() { r.nothing = true }

// covered reports whether all bytes of the request are accounted for. Both lists are in the buffer's
// order in nearly all plans: then one pass decides.
func (r *Request) covered() bool {
	if r.nothing {
		return true
	}
	for end := 0; end < r.Len; {
		was := end
		for i, j := 0, 0; i < len(r.secs) || j < len(r.done); {
			switch {
			case i < len(r.secs) && (j == len(r.done) || int(r.secs[i].BufOff) <= end || r.done[j].off > end):
				if s := &r.secs[i]; int(s.BufOff) <= end && s.Lent() && s.Err() == nil && s.Moved() == int(s.Len) {
					end = max(end, int(s.BufOff+s.Len))
				}
				i++
			default:
				if d := r.done[j]; d.off <= end {
					end = max(end, d.off+d.len)
				}
				j++
			}
		}
		if end == was {
			return false
		}
	}
	return true
}

// reset readies r for the next plan. The memory is kept.
func (r *Request) reset() {
	r.secs, r.zeros, r.done = r.secs[:0], r.zeros[:0], r.done[:0]
	r.next, r.nothing, r.beside = 0, false, false
}
