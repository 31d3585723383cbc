package objstore

import "sync/atomic"

// event wakes all goroutines that wait for something to change. The zero value is ready. It has no
// lock and never blocks, so that it may be fired under any lock.
//
// A waiter takes the channel first and looks at the condition afterwards. The goroutine that
// changes the condition fires afterwards. So no change is missed.
type event struct{ waiting atomic.Pointer[chan struct{}] }

// next returns a channel that is closed when the event is fired next.
func (e *event) next() <-chan struct{} {
	for {
		if c := e.waiting.Load(); c != nil {
			return *c
		}
		c := make(chan struct{})
		if e.waiting.CompareAndSwap(nil, &c) {
			return c
		}
	}
}

// fired reports whether the event was fired since next has returned the channel.
func fired(next <-chan struct{}) bool {
	select {
	case <-next:
		return true
	default:
		return false
	}
}

// fire wakes all waiters. Without waiters it costs a load.
func (e *event) fire() {
	if e.waiting.Load() == nil {
		return
	}
	if c := e.waiting.Swap(nil); c != nil {
		close(*c)
	}
}
