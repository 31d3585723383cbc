package segment

import (
	"sync/atomic"

	"varve/objstore/internal/lockorder"
)

// Pin keeps the locations that readers use from being punched or unlinked. A reader holds the
// current pin of its image, or of [Pins], from before it looks a location up until it has read the
// bytes there. To free a location, first make sure that look-ups do not return it any more, then
// replace the pin, and wait until the old pin is done.
//
// Pins are cumulative: a pin is done only after the one that it replaced. So waiting for the last
// pin means waiting for every reader that began before that pin was replaced, including readers
// that hold an older pin.
type Pin struct {
	n    atomic.Int64 // readers; one for being current, and one for a predecessor that is not done
	done chan struct{}
	next *Pin // the pin that has replaced this one; set before the reference for being current is dropped
}

// NewPin returns a current pin.
func NewPin() *Pin {
	p := &Pin{done: make(chan struct{})}
	p.n.Store(1)
	return p
}

// Hold counts one more reader, and returns p. It never blocks.
// REQUIRES: the lock of the pin's owner is held, and the pin is current.
func (p *Pin) Hold() *Pin {
	p.n.Add(1)
	return p
}

// Release counts one reader fewer. It never blocks.
func (p *Pin) Release() {
	for p != nil && p.n.Add(-1) == 0 { // no new reader holds a pin that is not current
		close(p.done)
		p = p.next
	}
}

// Replace returns a new pin, which is current in the place of p. p is done when every reader that
// began before the call has ended.
// REQUIRES: the lock of the pin's owner is held, and p is current.
func (p *Pin) Replace() *Pin {
	p.next = NewPin()
	p.next.n.Add(1)
	next := p.next
	p.Release()
	return next
}

// Done is closed when all that began before the pin was replaced have ended.
func (p *Pin) Done() <-chan struct{} { return p.done }

// Pins owns the pin of readers that look locations up by hash, and do not belong to an image: reads
// of tree nodes, settling, checks. It is safe for concurrent use; the zero value is ready.
type Pins struct {
	mu      lockorder.Mutex[lockorder.Memory]
	current *Pin
}

// Hold counts one more reader on the current pin, which the reader releases. It never blocks.
func (s *Pins) Hold() *Pin {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		s.current = NewPin()
	}
	return s.current.Hold()
}

// Replace makes a new pin current, and returns the old one. It never blocks.
func (s *Pins) Replace() *Pin {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		s.current = NewPin()
	}
	old := s.current
	s.current = old.Replace()
	return old
}
