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
	MaxSecondaries int // of one Start
	MaxRetries     int // of one secondary, after EINTR, EAGAIN and ECANCELED
}

// Fused is the state of one request slot's data transfer: a primary and its secondaries, in flight
// together, done when the last of them is. It belongs to the ring's goroutine, is used again and
// again, and allocates nothing after NewFused.
//
//	       Start                 Complete: the last secondary is in
//	idle ---------> in flight ---------------------------------> idle, done once
//	                  |    ^
//	                  +----+ Complete: short, EINTR, EAGAIN, ECANCELED: the rest goes again
//	                           a link: the next one goes
//
// Each secondary is owned by the kernel from the moment its entry is queued until its completion is
// given to Complete. Only when none is owned by the kernel is the request's buffer free to be
// committed. A secondary that fails does not keep the others from being finished: a mirror needs
// the result of each leg.
type Fused struct {
	tag        uint16
	generation uint16
	maxRetries uint8
	most       int // secondaries of one Start
	primary    Primary
	secs       []Secondary // the owner's, of the current use
	inFlight   int         // secondaries that the kernel owns

	err    error // the first, nil so far
	failed int   // the secondary it belongs to
	stale  uint64
}

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
	return &Fused{tag: tag, maxRetries: uint8(opts.MaxRetries), most: opts.MaxSecondaries}, nil
}

// MaxSecondaries is the bound of one Start.
func (f *Fused) MaxSecondaries() int { return f.most }

// InFlight counts the secondaries that the kernel owns. At 0 the buffer is free.
func (f *Fused) InFlight() int { return f.inFlight }

// Stale counts completions that belonged to no secondary in flight; anything
// but 0 is a bug in the owner's loop.
func (f *Fused) Stale() uint64 { return f.stale }

// Start checks the secondaries and queues all that no link holds back; the entries reach the kernel
// with the owner's next submit, or now if the queue is too small. The caller must not touch secs
// until the request is done, and then finds the results in it. An error means that nothing is in
// flight and nothing will be reported: the checks' errors are ErrBusy, ErrNoSecondary,
// ErrTooManySecondaries, ErrDirection and ErrRange. If the ring refuses entries after some were
// queued, Start returns nil and the error comes with the completion of those.
func (f *Fused) Start(q Queue, p Primary, secs []Secondary) error {
	if err := f.check(&p, secs); err != nil {
		if f.inFlight == 0 {
			for i := range secs {
				secs[i].err = err
			}
		}
		return err
	}
	f.generation++
	f.primary = p
	f.err = nil
	f.secs = secs
	for i := range secs {
		if i > 0 && secs[i-1].Link {
			continue
		}
		if err := f.queue(q, i); err != nil {
			f.refuse(i, err)
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
	case len(secs) > f.most:
		return fmt.Errorf("%w: %d, at most %d", ErrTooManySecondaries, len(secs), f.most)
	}
	for i := range secs {
		s := &secs[i]
		s.moved, s.retries, s.notify, s.err = 0, 0, false, nil
		if s.Lent() {
			if s.Op.fills() != (p.Dir == DirRead) {
				return fmt.Errorf("%w: secondary %d is a %v, the primary a %v", ErrDirection, i, s.Op, p.Dir)
			}
			if uint64(s.BufOff)+uint64(s.Len) > uint64(p.Len) {
				return rangeError(p, secs, i)
			}
		} else if s.Mem != nil {
			s.Len = uint32(len(s.Mem))
		}
		if s.Len == 0 && s.Op != SecondaryFsync || s.FileOff > math.MaxInt64-uint64(s.Len) || uint64(len(s.Mem)) > math.MaxInt32 {
			return rangeError(p, secs, i)
		}
	}
	return nil
}

func rangeError(p *Primary, secs []Secondary, i int) error {
	s := &secs[i]
	return fmt.Errorf("%w: secondary %d: buffer offset %d, length %d of %d, file offset %d", ErrRange, i, s.BufOff, s.Len, p.Len, s.FileOff)
}

// Complete takes a completion whose Kind is KindSecondary and whose Tag is this slot's, and returns
// true once per Start: when no secondary is left in flight. Err then says how the request went. The
// rest of a short secondary, and what was linked behind a complete one, is queued on q, to be
// submitted by the owner.
func (f *Fused) Complete(q Queue, c *CQE) (done bool) {
	u := UserData(c.UserData)
	i := int(u.Index())
	if u.Kind() != KindSecondary || u.Tag() != f.tag || u.Generation() != f.generation ||
		i >= len(f.secs) || f.secs[i].state != secondaryKernel {
		f.stale++
		return false
	}
	s := &f.secs[i]
	res := c.Res
	switch {
	case c.Flags&IORING_CQE_F_MORE != 0: // SEND_ZC: sent; a second completion says that the bytes are ours again
		s.notify, s.sent = true, res
		return false
	case s.notify:
		s.notify, res = false, s.sent
	}
	s.state = secondaryOurs
	f.inFlight--
	again, err := f.take(s, res)
	switch {
	case err == nil && again:
		err = f.queue(q, i)
	case err == nil && s.Link && i+1 < len(f.secs):
		if qerr := f.queue(q, i+1); qerr != nil {
			f.fail(i+1, qerr)
		}
	}
	if err != nil {
		f.fail(i, err)
	}
	return f.inFlight == 0
}

// take counts a result in, and reports whether there is a rest to queue.
func (f *Fused) take(s *Secondary, res int32) (again bool, err error) {
	switch {
	case res < 0:
		errno := unix.Errno(-res)
		if Passing(errno) && s.retries < f.maxRetries {
			s.retries++
			return true, nil
		}
		return false, errno
	case !s.Op.moves():
		return false, nil
	case res == 0 && s.Op.fills():
		return false, ErrUnexpectedEOF
	case res == 0:
		return false, ErrShortWrite
	case uint32(res) > s.Len-s.moved:
		return false, ErrOverrun
	}
	s.moved += uint32(res)
	return s.moved < s.Len, nil
}

// Passing reports whether an operation has failed only for a moment, and can be queued again. Nothing
// here cancels one, links included: ECANCELED is of the kernel, which gives up what waits for a worker
// thread if it can't make the first one, be it for signals such as Go's own (io_wq_enqueue and
// create_worker_cont in io_uring/io-wq.c).
func Passing(errno unix.Errno) bool {
	return errno == unix.EINTR || errno == unix.EAGAIN || errno == unix.ECANCELED
}

// queue submits a secondary, or the rest of it.
func (f *Fused) queue(q Queue, i int) error {
	e, err := NextSQE(q)
	if err != nil {
		return err
	}
	s := &f.secs[i]
	*e = SQE{
		Opcode: opcodes[s.Op], FD: s.FD,
		Off: s.FileOff + uint64(s.moved), Len: s.Len - s.moved, OpFlags: s.Flags,
		UserData: uint64(Pack(KindSecondary, f.generation, uint16(i), f.tag)),
	}
	if s.FixedFile {
		e.Flags = IOSQE_FIXED_FILE
	}
	switch {
	case s.Mem != nil:
		e.Addr = Address(s.Mem[s.moved:])
	case !s.Op.moves():
		if s.Op == SecondaryFallocate { // the mode is where others have the length
			e.Addr, e.Len, e.OpFlags = uint64(s.Len), s.Flags, 0
		}
	default:
		e.Addr = f.primary.Base + uint64(s.BufOff) + uint64(s.moved)
		if !f.primary.Plain {
			e.Opcode, e.BufIndex = fixedOpcodes[s.Op], f.primary.BufIndex
		}
	}
	if s.Op == SecondarySend || s.Op == SecondaryRecv {
		e.Off = 0
		if e.Opcode == fixedOpcodes[s.Op] && s.Mem == nil && !f.primary.Plain {
			e.IOPrio = IORING_RECVSEND_FIXED_BUF
		}
	}
	s.state = secondaryKernel
	f.inFlight++
	return nil
}

// The operations on memory, and those on a registered buffer.
var (
	opcodes = [secondaryOps]uint8{
		SecondaryRead: IORING_OP_READ, SecondaryWrite: IORING_OP_WRITE, SecondaryRecv: IORING_OP_RECV,
		SecondarySend: IORING_OP_SEND, SecondaryFsync: IORING_OP_FSYNC, SecondaryFallocate: IORING_OP_FALLOCATE,
	}
	fixedOpcodes = [secondaryOps]uint8{
		SecondaryRead: IORING_OP_READ_FIXED, SecondaryWrite: IORING_OP_WRITE_FIXED, SecondaryRecv: IORING_OP_RECV,
		SecondarySend: IORING_OP_SEND_ZC,
	}
)

// fail notes the error of a secondary, keeps the first of the request, and cancels what is linked
// behind it.
func (f *Fused) fail(i int, err error) {
	f.secs[i].err = err
	if f.err == nil {
		f.err, f.failed = err, i
	}
	for ; f.secs[i].Link && i+1 < len(f.secs); i++ {
		f.secs[i+1].err = ErrCancelled
	}
}

// refuse fails the secondaries of a start from i on: the ring takes no entry for them.
func (f *Fused) refuse(i int, err error) {
	f.fail(i, err)
	for i++; i < len(f.secs); i++ {
		f.secs[i].err = err
	}
}

// Sent reports whether the bytes of all secondaries have been moved, while the kernel still holds
// those of sends without a copy: on the stream of a socket the next request may follow, but the
// buffer is not free.
func (f *Fused) Sent() bool {
	for i := range f.secs {
		s := &f.secs[i]
		switch {
		case s.state == secondaryOurs && s.err == nil && (s.moved == s.Len || !s.Op.moves()):
		case s.state == secondaryKernel && s.notify && s.sent > 0 && uint32(s.sent) == s.Len-s.moved:
		default:
			return false
		}
	}
	return f.inFlight > 0
}

// Err is how the last use went: nil when every secondary succeeded, else the first error, an
// *OpError that names its secondary. It makes a new value each time and holds until the next Start.
func (f *Fused) Err() error {
	if f.err == nil {
		return nil
	}
	return &OpError{Op: fmt.Sprintf("fused %v, secondary %d of %d, %v", f.primary.Dir, f.failed, len(f.secs), f.secs[f.failed].Op), Err: f.err}
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
