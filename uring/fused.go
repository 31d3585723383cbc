//go:build linux

package uring

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// Defaults and limits of FusedOptions.
const (
	DefaultMaxSecondaries = 256
	MaxSecondaries        = math.MaxUint16
	DefaultMaxRetries     = 16
)

// FusedOptions bound a Fused. Zero means the default.
type FusedOptions struct {
	MaxSecondaries int // of one request; 32 bytes each are held for them
	MaxRetries     int // of one secondary, after EINTR and EAGAIN
}

// Fused is the state of one request slot's data transfer: a primary and its
// secondaries, in flight together, done when the last of them is. It belongs to
// the ring's goroutine, is used again and again, and allocates nothing after
// NewFused.
//
//	       Start                 Complete: the last part is in
//	idle ---------> in flight ---------------------------------> idle, done once
//	                  |    ^
//	                  +----+ Complete: short, EINTR, EAGAIN: the rest goes again
//
// Each part is owned by the kernel from the moment its entry is queued until
// its completion is given to Complete. Only when no part is owned by the kernel
// is the request's buffer free to be committed.
type Fused struct {
	tag        uint16
	generation uint16
	maxRetries uint8
	primary    Primary
	parts      []part // of the current use
	inFlight   int    // parts that the kernel owns

	err    error // the first, nil so far
	failed int   // the part it belongs to
	stale  uint64
}

// part is one secondary under way: what is left of it.
type part struct {
	state   partState
	retries uint8
	flags   uint8 // IOSQE_*
	fd      int32
	left    uint32
	rwFlags uint32
	fileOff uint64
	addr    uint64
}

// partState says who owns a part.
type partState uint8

const (
	partOurs    partState = iota // settled: transferred, failed, or never queued
	partKernels                  // its entry is queued or in flight
)

// NewFused makes the state of the request slot tag.
func NewFused(tag uint16, opts FusedOptions) (*Fused, error) {
	if opts.MaxSecondaries == 0 {
		opts.MaxSecondaries = DefaultMaxSecondaries
	}
	if opts.MaxRetries == 0 {
		opts.MaxRetries = DefaultMaxRetries
	}
	if opts.MaxSecondaries < 1 || opts.MaxSecondaries > MaxSecondaries {
		return nil, fmt.Errorf("fused secondaries %d: not in 1 to %d", opts.MaxSecondaries, MaxSecondaries)
	}
	if opts.MaxRetries < 1 || opts.MaxRetries > math.MaxUint8 {
		return nil, fmt.Errorf("fused retries %d: not in 1 to %d", opts.MaxRetries, math.MaxUint8)
	}
	return &Fused{tag: tag, maxRetries: uint8(opts.MaxRetries), parts: make([]part, 0, opts.MaxSecondaries)}, nil
}

// MaxSecondaries is the bound of one Start.
func (f *Fused) MaxSecondaries() int { return cap(f.parts) }

// InFlight counts the secondaries that the kernel owns. At 0 the buffer is free.
func (f *Fused) InFlight() int { return f.inFlight }

// Stale counts completions that belonged to no secondary in flight; anything
// but 0 is a bug in the owner's loop.
func (f *Fused) Stale() uint64 { return f.stale }

// Start checks the secondaries and queues them all; the entries reach the
// kernel with the owner's next submit, or now where the queue is too small. secs
// is not kept. An error means that nothing is in flight and nothing will be
// reported: the checks' errors are ErrBusy, ErrNoSecondary,
// ErrTooManySecondaries, ErrDirection and ErrRange. If the ring refuses entries
// after some were queued, Start returns nil and the error comes with the
// completion of those.
func (f *Fused) Start(q Queue, p Primary, secs []Secondary) error {
	if err := f.check(&p, secs); err != nil {
		return err
	}
	f.generation++
	f.primary = p
	f.err = nil
	f.parts = f.parts[:len(secs)]
	for i := range secs {
		s := &secs[i]
		f.parts[i] = part{
			fd: s.FD, left: s.Len, rwFlags: s.RWFlags,
			fileOff: s.FileOff, addr: p.Base + uint64(s.BufOff),
		}
		if s.FixedFile {
			f.parts[i].flags = IOSQE_FIXED_FILE
		}
	}
	for i := range f.parts {
		if err := f.queue(q, i); err != nil {
			f.fail(i, err)
			break
		}
	}
	if f.inFlight == 0 {
		return f.Err()
	}
	return nil
}

func (f *Fused) check(p *Primary, secs []Secondary) error {
	switch {
	case f.inFlight != 0:
		return ErrBusy
	case len(secs) == 0:
		return ErrNoSecondary
	case len(secs) > cap(f.parts):
		return fmt.Errorf("%w: %d, at most %d", ErrTooManySecondaries, len(secs), cap(f.parts))
	}
	for i := range secs {
		s := &secs[i]
		if s.Dir != p.Dir {
			return fmt.Errorf("%w: secondary %d is a %v, the primary a %v", ErrDirection, i, s.Dir, p.Dir)
		}
		if s.Len == 0 || uint64(s.BufOff)+uint64(s.Len) > uint64(p.Len) || s.FileOff > math.MaxInt64-uint64(s.Len) {
			return fmt.Errorf("%w: secondary %d: buffer offset %d, length %d of %d, file offset %d",
				ErrRange, i, s.BufOff, s.Len, p.Len, s.FileOff)
		}
	}
	return nil
}

// Complete takes the result of a completion whose Kind is KindSecondary and
// whose Tag is this slot's, and returns true once per Start: when no secondary
// is left in flight. Err then says how the request went. The rest of a short
// secondary is queued again on q, to be submitted by the owner.
func (f *Fused) Complete(q Queue, u UserData, res int32) (done bool) {
	i := int(u.Index())
	if u.Kind() != KindSecondary || u.Tag() != f.tag || u.Generation() != f.generation ||
		i >= len(f.parts) || f.parts[i].state != partKernels {
		f.stale++
		return false
	}
	again, err := f.take(&f.parts[i], res)
	if again && f.err == nil {
		err = f.queue(q, i)
	}
	if err != nil {
		f.fail(i, err)
	}
	return f.inFlight == 0
}

// take moves a part from the kernel's hands into ours, counts its result in,
// and says whether there is a rest to queue.
func (f *Fused) take(p *part, res int32) (again bool, err error) {
	p.state = partOurs
	f.inFlight--
	switch {
	case res < 0:
		errno := unix.Errno(-res)
		if (errno == unix.EINTR || errno == unix.EAGAIN) && p.retries < f.maxRetries {
			p.retries++
			return true, nil
		}
		return false, errno
	case res == 0 && f.primary.Dir == DirRead:
		return false, ErrUnexpectedEOF
	case res == 0:
		return false, ErrShortWrite
	case uint32(res) > p.left:
		return false, ErrOverrun
	}
	n := uint32(res)
	p.left -= n
	p.addr += uint64(n)
	p.fileOff += uint64(n)
	return p.left > 0, nil
}

// queue gives a part to the kernel.
func (f *Fused) queue(q Queue, i int) error {
	s, err := NextSQE(q)
	if err != nil {
		return err
	}
	p := &f.parts[i]
	*s = SQE{
		Opcode: secondaryOps[f.primary.Dir&1], Flags: p.flags, FD: p.fd,
		Off: p.fileOff, Addr: p.addr, Len: p.left, OpFlags: p.rwFlags,
		UserData: uint64(Pack(KindSecondary, f.generation, uint16(i), f.tag)),
		BufIndex: f.primary.BufIndex,
	}
	if f.primary.Plain {
		s.Opcode, s.BufIndex = plainOps[f.primary.Dir&1], 0
	}
	p.state = partKernels
	f.inFlight++
	return nil
}

var (
	secondaryOps = [2]uint8{DirRead: IORING_OP_READ_FIXED, DirWrite: IORING_OP_WRITE_FIXED}
	plainOps     = [2]uint8{DirRead: IORING_OP_READ, DirWrite: IORING_OP_WRITE}
)

// fail keeps the first error.
func (f *Fused) fail(i int, err error) {
	if f.err == nil {
		f.err, f.failed = err, i
	}
}

// Err is how the last use went: nil when every byte was moved, else the first
// error, an *OpError that names the secondary. It makes a new value each time
// and holds until the next Start.
func (f *Fused) Err() error {
	if f.err == nil {
		return nil
	}
	return &OpError{Op: fmt.Sprintf("fused %v, secondary %d of %d", f.primary.Dir, f.failed, len(f.parts)), Err: f.err}
}

// submitTries bounds how often NextSQE asks a ring that is short of memory.
const submitTries = 64

// NextSQE is GetSQE for callers that must not lose their entry: when the queue
// is full it submits and goes on. An error means that the ring takes no more
// entries, in spite of a bounded number of tries; those queued before stay
// queued.
func NextSQE(q Queue) (*SQE, error) {
	if s := q.GetSQE(); s != nil {
		return s, nil
	}
	return submitForSQE(q)
}

func submitForSQE(q Queue) (*SQE, error) {
	var err error
	for range submitTries {
		if _, err = q.Submit(); err != nil && Transient(err) {
			// Short of requests or of completion entries: let the kernel finish
			// what it can before the next try.
			err = q.SubmitAndWait(0, WaitBusy)
		}
		if s := q.GetSQE(); s != nil {
			return s, nil
		}
		if err != nil && !Transient(err) {
			return nil, err
		}
	}
	if err == nil {
		err = unix.EBUSY
	}
	return nil, &OpError{Op: "get submission entry", Err: err}
}
