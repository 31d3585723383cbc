package objstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	settlerTick  = 250 * time.Millisecond
	frozenLayers = 32              // above it, a snapshot waits for settling
	openingGrace = 2 * time.Second // or SettleDelay, if that is shorter
)

// settler decides which volume settles when, one layer at a time in a store, and tries again what
// has failed. It knows volumes as settleable, and the store as settlerDeps; how a layer settles is
// in settle.go.
//
// Invariants:
//
//   - Layers of a volume settle in their order; each settling is one call of settleOldest, on the
//     settler's goroutine.
//   - A volume that can't settle does not delay the others: it has a retry of its own.
//   - Settling gives way to requests (pacer) unless a caller waits for it, or space or the tail's
//     limit presses.
//   - Waiters for settling are woken when it has succeeded, failed, or freed space.
//   - The error that a waiter gets is that of a settling that began after the waiter came.
//
// What only run and its callees use needs no lock. ask, do and waitSettled may be called from any
// goroutine. No lock is held while the settler calls a method of a volume.
type settler struct {
	deps  settlerDeps
	asked chan struct{}
	jobs  chan settlerJob

	awaited atomic.Int64 // callers that wait for settling, of all volumes
	clock   atomic.Int64 // uptime in nanoseconds at the last tick; never 0

	pacer pacer
}

// settlerDeps are what the settler needs of the store. Only seal, housekeep and makeRoom may block.
type settlerDeps struct {
	volumes   func() []settleable // all that there are
	gate      gate
	space     *spaceAccount
	requests  func() uint64          // counts the requests of all volumes
	filling   func() bool            // the index is being filled: duplicates are not found yet
	repairs   func() int64           // the repair generation, which changes when an object was found good again
	seal      func() error           // ends the segments that settling has filled
	housekeep func()                 // called at each tick
	makeRoom  func(bytes int64) bool // gives up what is kept for a full disk, if that is enough for so many bytes
	uptime    func() time.Duration
	closed    <-chan struct{} // closed when the store closes
	delay     time.Duration   // Options.SettleDelay
	tailSoft  int64           // Options.TailSoft
	log       *slog.Logger
}

func newSettler(deps settlerDeps) *settler {
	t := &settler{deps: deps, asked: make(chan struct{}, 1), jobs: make(chan settlerJob)}
	t.clock.Store(1)
	return t
}

// ask wakes the settler to look for something to do. It never blocks.
func (t *settler) ask() {
	select {
	case t.asked <- struct{}{}:
	default:
	}
}

// run settles until ctx ends.
func (t *settler) run(ctx context.Context) {
	tick := time.NewTicker(settlerTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.clock.Store(int64(t.deps.uptime()))
			t.countStuck() // before waiting writes look again
			t.deps.space.tick()
			t.deps.housekeep()
		case <-t.asked:
		case j := <-t.jobs:
			j.run(ctx)
		}
		t.settleDue(ctx)
	}
}

// settleDue settles what is frozen, and freezes and settles what has waited long enough. A volume
// that can't settle does not delay the others.
func (t *settler) settleDue(ctx context.Context) {
	if t.deps.gate.writeError() != nil {
		return // waiting callers get the same error
	}
	for _, v := range t.deps.volumes() {
		t.runJobs(ctx)
		if !t.retryDue(v) {
			continue
		}
		v.settleAttempts().begun.Add(1)
		try := t.stateFor(v)
		err := t.settleVolume(ctx, v)
		if errors.Is(err, ErrNoSpace) && t.makesRoom(v) {
			err = t.settleVolume(ctx, v)
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			v.settleAttempts().failed.Store(0)
			v.setStuck(false)
		case !v.gone(): // else it was deleted meanwhile
			t.settleFailed(v, try, fmt.Errorf("volume %s: %w", v.Name(), err))
		}
	}
}

func (t *settler) settleVolume(ctx context.Context, v settleable) error {
	v.activateLater()
	if t.waits(v) {
		return v.rest()
	}
	if t.due(v) {
		if _, err := v.freeze(); err != nil {
			return err
		}
	}
	for v.backlog().frozen > 0 {
		err := v.settleOldest(ctx)
		if serr := t.deps.seal(); err == nil {
			err = serr
		}
		if errors.Is(err, errCounting) { // continues after the other volumes
			t.ask()
			return nil
		}
		if err != nil {
			return err
		}
	}
	return v.rest()
}

// leastErased is how many bytes a volume's layers discard at least, and more than they write, for the
// room that is kept for a full disk to be used for their settling.
const leastErased = 4 << 20

// makesRoom reports whether a settling that found no room may be tried again at once: what it discards
// is more than it writes, and some room was kept for that.
func (t *settler) makesRoom(v settleable) bool {
	b := v.backlog()
	return b.erased >= leastErased && b.erased > b.tail && t.deps.makeRoom(b.reserved)
}

// due reports whether the volume's active layer should settle.
func (t *settler) due(v settleable) bool {
	b := v.backlog()
	if !b.fresh {
		return false
	}
	if t.pressing(&b) {
		return true
	}
	d := t.deps.delay
	return d >= 0 && t.deps.uptime()-b.since > d
}

// waits reports whether the volume's settling waits: until the index is filled, so that it finds
// duplicates; and for a moment after the opening, since devices of a killed daemon wait to be
// served.
func (t *settler) waits(v settleable) bool {
	opening := t.deps.uptime() < min(openingGrace, t.deps.delay)
	if !opening && !t.deps.filling() || t.awaited.Load() > 0 {
		return false
	}
	b := v.backlog()
	return !t.pressing(&b) && b.layers <= frozenLayers/2
}

// pressing reports whether settling may not wait for a quiet moment: the tail or the journal is
// long, or space is low.
func (t *settler) pressing(b *backlog) bool {
	a := t.deps.space
	return b.tail > t.deps.tailSoft || a.waiting.Load() > 0 || a.lowSpace.Load() && b.tail > 0 || b.journalLong
}

// pace gives way to requests before n more bytes of a volume settle.
func (t *settler) pace(ctx context.Context, v settleable, n int) error {
	return t.pacer.pace(ctx, n, t.deps.requests, func() bool {
		b := v.backlog()
		return t.pressing(&b) || t.awaited.Load() > 0
	})
}

// waitSettled waits until the volume's base holds gen, or the volume was deleted.
func (t *settler) waitSettled(ctx context.Context, v settleable, gen uint64) error {
	a := v.settleAttempts()
	t.awaited.Add(1)
	defer t.awaited.Add(-1)
	a.wanted.Add(1)
	defer a.wanted.Add(-1)
	before := a.begun.Load() // what came of these, the one under way too, is not the answer
	for {
		if done, err := v.reached(gen); done || err != nil {
			return err
		}
		if err := t.deps.gate.writeError(); err != nil {
			return err
		}
		if f := a.last.Load(); f != nil && f.number > before {
			return f.err
		}
		t.ask()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.deps.closed:
			return ErrClosed
		case <-time.After(2 * time.Millisecond):
		}
	}
}
