package objstore

import (
	"context"
	"time"
)

// settleable is a volume as the settler sees it: layers that wait to settle. Its methods take what
// locks they need, and the caller holds none of them.
type settleable interface {
	Name() string
	// settleAttempts returns how the settling of the volume goes, always the same.
	settleAttempts() *settleAttempts
	// backlog returns what waits to settle. It never blocks on I/O.
	backlog() backlog
	// reached reports whether the volume's base holds a generation, or is not needed any more, as
	// the volume was deleted. The error is why it never will, until the volume is repaired.
	reached(gen uint64) (bool, error)
	// gone reports whether the volume was deleted.
	gone() bool

	// activateLater opens a journal, where there was no space for one. It blocks.
	activateLater()
	// freeze closes the active layer, if it is not empty, and returns the newest frozen generation.
	// It blocks.
	freeze() (uint64, error)
	// settleOldest settles the oldest frozen layer, if there is one. It blocks. After an error the
	// layer is as it was, and is to be settled again; errCounting asks for that after the other
	// volumes.
	settleOldest(ctx context.Context) error
	// rest is called when nothing waits to settle. It blocks.
	rest() error

	// setStuck says whether the settling fails again and again: then no write waits for it. true
	// has no effect on a volume that has settled meanwhile.
	setStuck(stuck bool)
	// wakeWriters wakes the writes that wait for the tail to become shorter. It never blocks.
	wakeWriters()
}

// backlog is what of a volume waits to settle, at one moment.
type backlog struct {
	frozen      int           // layers that wait to settle
	layers      int           // these, and the active one
	fresh       bool          // the active layer has a write that has to settle by itself
	since       time.Duration // the uptime at which the active layer became non-empty
	journalLong bool          // the active layer's journal is more than half full
	tail        int64         // bytes in layers
	reserved    int64         // bytes that settling them may write
	erased      int64         // bytes that they discard, at most
}

func (v *volume) settleAttempts() *settleAttempts { return &v.attempts }

func (v *volume) backlog() backlog {
	v.mu.Lock()
	defer v.mu.Unlock()
	b := backlog{frozen: len(v.layers), layers: len(v.layers), since: v.since, tail: v.tail}
	if v.writable {
		a := v.active()
		b.frozen--
		b.fresh, b.journalLong = a.fresh, a.journal.Count() > a.journal.Max()/2
	}
	for _, l := range v.layers {
		b.reserved += l.reservation.bytes
		b.erased += l.erased
	}
	return b
}

func (v *volume) reached(gen uint64) (bool, error) {
	v.mu.Lock()
	done := v.baseGen >= gen
	v.mu.Unlock()
	if done || v.gone() {
		return true, nil
	}
	return false, v.damageError()
}

func (v *volume) gone() bool { return v.s.catalog.gone(v) }

func (v *volume) settleOldest(ctx context.Context) error { return v.s.layerSettler.settle(ctx, v) }

func (v *volume) wakeWriters() { v.room.fire() }

func (v *volume) setStuck(stuck bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unstick(v.s.space)
	if stuck && v.attempts.failed.Load() >= settleTries { // else the volume has settled just now
		for _, l := range v.layers {
			v.stuckReserved += l.reservation.bytes
		}
		v.stuckTail = v.tail
		v.s.space.stuck(v.stuckTail, v.stuckReserved)
	}
}

// unstick removes from the account what setStuck has added for the volume.
// REQUIRES: v.mu is held.
func (v *volume) unstick(space *spaceAccount) {
	space.stuck(-v.stuckTail, -v.stuckReserved)
	v.stuckTail, v.stuckReserved = 0, 0
}

// mayHelp notes a change of the volume that may let its settling succeed.
func (v *volume) mayHelp() {
	v.attempts.changes.Add(1)
	v.s.settler.ask()
}

// settleable returns the volumes that there are.
func (c *catalog) settleable() []settleable {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]settleable, 0, len(c.volumes))
	for _, v := range c.volumes {
		out = append(out, v)
	}
	return out
}

// requests counts the requests of all volumes.
func (c *catalog) requests() uint64 {
	var n uint64
	for _, v := range c.all() {
		v.mu.Lock()
		n += v.ops
		v.mu.Unlock()
	}
	return n
}
