package objstore

import "sync/atomic"

// pin keeps what plans point to in being. Every plan of a volume counts on the volume's current
// pin; before anything is punched or unlinked, the pin is replaced, and the old one waited for.
//
// Pins are cumulative: a pin is done only after the one that it replaced, so that whoever waits for
// the last pin waits for every plan that was made before it was replaced, also for those that count
// on an older pin, which somebody else waits for.
type pin struct {
	n    atomic.Int64 // plans; one for being current, and one for a predecessor that is not done
	done chan struct{}
	next *pin // the pin that has replaced this one; set before that reference is released
}

func newPin() *pin {
	p := &pin{done: make(chan struct{})}
	p.n.Store(1)
	return p
}

// replacePin makes a new pin current and returns the old one, which is done when every plan made so
// far is released.
// REQUIRES: v.mu is held.
func (v *volume) replacePin() *pin {
	old := v.pin
	old.next = newPin()
	old.next.n.Add(1)
	v.pin = old.next
	old.release()
	return old
}

// release gives one reference up. It never blocks.
func (p *pin) release() {
	for p != nil && p.n.Add(-1) == 0 { // nobody counts on a pin that is not current any more
		close(p.done)
		p = p.next
	}
}
