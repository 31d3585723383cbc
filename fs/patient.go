package fs

import (
	"context"
	"sync"
	"time"
)

// interruptGrace is how long a request that was interrupted may continue waiting.
const interruptGrace = time.Second

// patient is the context of a request that reads or writes. It ends interruptGrace after the
// request was interrupted.
//
// The kernel interrupts a request when its process gets a signal, whatever the signal does, and
// cannot free a process that was killed before the request is answered (request_wait_answer in
// fs/fuse/dev.c, 7.3). So a wait for room or for the disk has to end. But reads and writes of a
// file on a disk never fail with EINTR, and few programs expect it; so a request that completes
// within the grace is not ended. A request that does not wait pays only the memory of this struct:
// Done makes the timer.
type patient struct {
	context.Context //nolint:containedctx // of the request

	mu   sync.Mutex
	own  context.Context    //nolint:containedctx // guarded by mu, like the fields below; nil: nothing waits
	stop context.CancelFunc // ends own
	off  func() bool        // ends the look-out for an interrupt
}

func newPatient(ctx context.Context) *patient { return &patient{Context: ctx} }

// begin makes the context that ends after the grace.
func (p *patient) begin() context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.own == nil {
		own, cancel := context.WithCancel(context.WithoutCancel(p.Context))
		p.own, p.stop = own, cancel
		p.off = context.AfterFunc(p.Context, func() {
			select {
			case <-time.After(interruptGrace):
				cancel()
			case <-own.Done():
			}
		})
	}
	return p.own
}

// Done implements context.Context.
func (p *patient) Done() <-chan struct{} { return p.begin().Done() }

// Err implements context.Context.
func (p *patient) Err() error {
	p.mu.Lock()
	own := p.own
	p.mu.Unlock()
	switch {
	case own != nil:
		return own.Err()
	case p.Context.Err() != nil: // the grace begins
		return p.begin().Err()
	}
	return nil
}

// Deadline implements context.Context: an interrupt comes unannounced.
func (p *patient) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// end ends the look-out for an interrupt: the request is answered.
func (p *patient) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.own != nil {
		p.off()
		p.stop()
	}
}
