//go:build linux

package uring

import (
	"fmt"
	"sort"
	"time"
)

// Ring is one io_uring: a submission queue, a completion queue and the tables of registered buffers
// and files. It belongs to one goroutine, which is locked to its thread when Options.SingleIssuer
// or DeferTaskrun is set; no method may be called from anywhere else, New and Close included.
type Ring interface {
	Queue
	Registrar

	// Info returns what the kernel granted.
	Info() Info
	// Close unmaps the ring and closes it. The kernel completes or cancels operations in flight
	// without notice: memory passed to it by SQE.Read, SQE.Write or RegisterBuffers must not be
	// reused before its completion was reaped. A second Close does nothing.
	Close() error
}

// Queue is the part of a ring that submits entries and reaps completions.
type Queue interface {
	// GetSQE returns the next submission entry, zeroed, or nil if the queue is full: then call
	// Submit and retry. The caller owns the entry until the next Submit or wait, which passes it to
	// the kernel whatever it holds: a zeroed entry is a no-op.
	GetSQE() *SQE
	// Submit submits the queued entries without waiting, and returns how many the kernel took. The
	// error is an *OpError. EAGAIN and EBUSY mean that the kernel is short of memory or of room for
	// completions: entries that were not taken stay queued; reap and submit again.
	Submit() (int, error)
	// SubmitAndWait submits the queued entries and waits until n completions can be reaped; n = 0
	// runs the deferred work of the ring and does not wait. Signals do not end a wait. Errors are
	// those of Submit; EBADR means that the kernel lost completions, after which the ring is
	// unusable.
	SubmitAndWait(n uint32, mode WaitMode) error
	// SubmitAndWaitTimeout is SubmitAndWait with WaitHandoff for at most d. If fewer than n
	// completions are ready then, it returns ErrTimeout. Submitted operations stay in flight.
	SubmitAndWaitTimeout(n uint32, d time.Duration) error
	// Reap moves up to len(cqes) completions into cqes, oldest first, and returns their number. It
	// does not wait. If it returns len(cqes) there may be more.
	Reap(cqes []CQE) int
}

// Registrar is the part of a ring that registers buffers and files. Errors are *OpError.
type Registrar interface {
	// RegisterBuffersSparse registers a table of n empty buffer slots, which the kernel (ublk's
	// automatic registration) or UpdateBuffers fills.
	RegisterBuffersSparse(n uint32) error
	// RegisterBuffers registers a table of bufs. The kernel pins the pages, and the Go memory must
	// stay reachable while it is registered.
	RegisterBuffers(bufs [][]byte) error
	// UpdateBuffers replaces the slots from off on; an empty slice empties a slot.
	UpdateBuffers(off uint32, bufs [][]byte) error
	// RegisterFiles registers a table of files, -1 for an empty slot. The kernel takes its own
	// references: the descriptors may be closed afterwards.
	RegisterFiles(fds []int32) error
	// UpdateFiles replaces the slots from off on; -1 empties a slot.
	UpdateFiles(off uint32, fds []int32) error
}

// CQE is one completion (struct io_uring_cqe): the SQE's UserData and the result, a count or a
// negated errno.
type CQE struct {
	UserData uint64
	Res      int32
	Flags    uint32
}

// WaitMode tells a wait what the goroutine expects; the package comment has the reasons.
type WaitMode uint8

const (
	// WaitBusy is for a thread whose own I/O is in flight: the wait keeps the scheduler's slot
	// (RawSyscall6), because the answer is microseconds away.
	WaitBusy WaitMode = iota
	// WaitIdle is for a thread with nothing in flight but fetches: the wait begins like WaitBusy,
	// and hands the slot off (Syscall6) when a signal arrives before a completion.
	WaitIdle
	// WaitHandoff hands the slot off at once (Syscall6): for a thread that waits for other
	// goroutines' work, and for control rings.
	WaitHandoff
)

// Info is what io_uring_setup granted.
type Info struct {
	FD        int
	SQEntries uint32
	CQEntries uint32
	Features  uint32 // IORING_FEAT_*
}

// Defaults and limits of Options.
const (
	DefaultEntries = 128
	MaxEntries     = 32768 // IORING_MAX_ENTRIES, io_uring/io_uring.h
	MaxCQEntries   = 2 * MaxEntries
)

// Options for New. The kernel rounds entries up to a power of two.
type Options struct {
	Entries        uint32 // submission entries; 0: DefaultEntries
	CQEntries      uint32 // completion entries; 0: twice Entries
	SQE128         bool   // 128-byte entries (SQE.BigCmd), for control commands
	SingleIssuer   bool   // one thread submits; bound to the one that calls New
	DeferTaskrun   bool   // completions are posted only during waits; needs SingleIssuer
	CoopTaskrun    bool   // completions do not interrupt the thread
	Implementation string // one of Implementations(); "": DefaultImplementation
}

// EnsureDefaults replaces zero values with defaults.
func (o *Options) EnsureDefaults() {
	if o.Entries == 0 {
		o.Entries = DefaultEntries
	}
	if o.Implementation == "" {
		o.Implementation = DefaultImplementation
	}
}

// Validate returns an error for the first invalid option.
func (o *Options) Validate() error {
	switch {
	case o.Entries > MaxEntries:
		return fmt.Errorf("ring entries %d: more than %d", o.Entries, MaxEntries)
	case o.CQEntries > MaxCQEntries:
		return fmt.Errorf("ring completion entries %d: more than %d", o.CQEntries, MaxCQEntries)
	case o.CQEntries != 0 && o.CQEntries < o.Entries:
		return fmt.Errorf("ring completion entries %d: fewer than entries %d", o.CQEntries, o.Entries)
	case o.DeferTaskrun && !o.SingleIssuer:
		return fmt.Errorf("ring DeferTaskrun: needs SingleIssuer")
	}
	return nil
}

// DefaultImplementation is varve's own ring.
const DefaultImplementation = "varve"

// implementations is written by init functions only.
var implementations = map[string]func(Options) (Ring, error){}

// Implementations returns the names of the ring implementations in this build, sorted.
func Implementations() []string {
	names := make([]string, 0, len(implementations))
	for name := range implementations {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// New sets up a ring. The caller closes it. With SingleIssuer the calling thread becomes its only
// user: lock the goroutine to its thread first. If the kernel lacks or forbids io_uring, New
// returns ErrNoIOUring.
func New(opts Options) (Ring, error) {
	opts.EnsureDefaults()
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	open, ok := implementations[opts.Implementation]
	if !ok {
		return nil, fmt.Errorf("ring implementation %q: not in this build (have %v)", opts.Implementation, Implementations())
	}
	return open(opts)
}
