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

// Fused is the state of one request slot's data transfer: a primary and its secondaries, in flight
// together, complete when the last secondary is. It belongs to the ring's goroutine, is reused for
// every request of the slot, and allocates nothing after NewFused.
//
//	       Start                 Complete: of the last part
//	idle ---------> in flight ---------------------------------> idle, done once
//	                  |    ^
//	                  +----+ Complete: short, EINTR, EAGAIN: the rest is resubmitted
//
// The kernel owns a part from the moment its entry is queued until its completion is passed to
// Complete. The request may be committed only when the kernel owns no part.
type Fused struct {
	tag        uint16
	generation uint16
	maxRetries uint8
	primary    Primary
	parts      []part // of the current use
	inFlight   int    // parts that the kernel owns

	err    error // the first error of the current use
	failed int   // the part that err belongs to
	stale  uint64
}

// part is the remainder of one secondary.
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

// partState is the owner of a part.
type partState uint8

const (
	partIdle   partState = iota // owned by the Fused: transferred, failed, or never queued
	partQueued                  // owned by the kernel: its entry is queued or in flight
)

// NewFused returns the state of the request slot tag.
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

// MaxSecondaries returns how many secondaries one Start accepts.
func (f *Fused) MaxSecondaries() int { return cap(f.parts) }

// InFlight returns the number of secondaries that the kernel owns. At 0 the buffer is free.
func (f *Fused) InFlight() int { return f.inFlight }

// Stale returns the number of completions that belonged to no secondary in flight; any value but 0
// means a bug in the owner's loop.
func (f *Fused) Stale() uint64 { return f.stale }

// Start validates the secondaries and queues them all. The entries reach the kernel with the
// owner's next submit, or at once if the queue is too small. secs is not retained. An error means
// that nothing is in flight and Complete will not report anything: it is ErrBusy, ErrNoSecondary,
// ErrTooManySecondaries, ErrDirection, ErrRange, or the ring's. If the ring refuses entries after
// some were queued, Start returns nil, and Err returns the error when those are complete.
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

// Complete takes the result of a completion whose Kind is KindSecondary and whose Tag is this
// slot's. It returns true once per Start: when no secondary is left in flight. Err then returns the
// result of the request. The rest of a short secondary is queued again on q, for the owner to
// submit.
func (f *Fused) Complete(q Queue, u UserData, res int32) (done bool) {
	i := int(u.Index())
	if u.Kind() != KindSecondary || u.Tag() != f.tag || u.Generation() != f.generation ||
		i >= len(f.parts) || f.parts[i].state != partQueued {
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

// take returns a part's ownership from the kernel, applies its result, and reports whether a
// remainder has to be queued.
func (f *Fused) take(p *part, res int32) (again bool, err error) {
	p.state = partIdle
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

// queue queues a part's entry, which makes the kernel its owner.
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
	p.state = partQueued
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

// Err returns the result of the last use: nil if every byte was moved, else the first error, an
// *OpError that names the secondary. It is valid until the next Start. Each call allocates a new
// error.
func (f *Fused) Err() error {
	if f.err == nil {
		return nil
	}
	return &OpError{Op: fmt.Sprintf("fused %v, secondary %d of %d", f.primary.Dir, f.failed, len(f.parts)), Err: f.err}
}

// submitTries bounds how often NextSQE retries on a ring that is short of memory.
const submitTries = 64

// NextSQE is GetSQE for callers that must get an entry: when the queue is full it submits and
// retries. An error means that the ring accepted no more entries in a bounded number of tries;
// those queued before stay queued.
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
			// The kernel is short of requests or completion entries: let it finish some before the
			// next try.
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
