package objstore

import "sync/atomic"

// pin keeps the data that plans refer to from being punched or unlinked. Every plan of a volume
// counts on the volume's current pin; reclaiming first replaces the pin and waits for the old one.
//
// Pins are cumulative: a pin is done only after the one that it replaced. So waiting for the last
// pin means waiting for every plan that was made before that pin was replaced, also for plans that
// count on an older pin.
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

// release drops one reference. It never blocks.
func (p *pin) release() {
	for p != nil && p.n.Add(-1) == 0 { // no new plan counts on a pin that is not current
		close(p.done)
		p = p.next
	}
}
