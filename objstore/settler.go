package objstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	settlerTick  = 250 * time.Millisecond
	frozenLayers = 32              // above it, a snapshot waits for settling
	openingGrace = 2 * time.Second // or SettleDelay, if that is shorter
)

// settler decides which volume settles when, one layer at a time in a store, and tries again what
// has failed. How a layer settles is in settle.go.
//
// Invariants:
//
//   - Layers of a volume settle in their order; each settling is one call of settleLayer, on the
//     settler's goroutine.
//   - A volume that can't settle does not delay the others: it has a retry of its own.
//   - Settling gives way to requests (pacer) unless a caller waits for it, or room or the tail's
//     limit presses.
//   - Those who wait for settling are woken when it has succeeded, failed, or given room back.
//
// What only run and its callees use needs no lock. ask may be called from any goroutine.
type settler struct {
	s     *Store
	asked chan struct{}
	jobs  chan settlerJob

	awaited atomic.Int64 // callers that wait for settling, of all volumes
	clock   atomic.Int64 // uptime in nanoseconds at the last tick; never 0

	pacer     pacer
	appenders appenders // of objects that settling writes
}

func newSettler(s *Store) *settler {
	st := &settler{s: s, asked: make(chan struct{}, 1), jobs: make(chan settlerJob)}
	st.clock.Store(1)
	return st
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
			t.clock.Store(int64(t.s.uptime()))
			_ = t.s.catalog.takeBack() // an error is tried again at the next tick
			t.countStuck()             // before waiting writes look again
			t.s.space.tick()
			if t.s.catalog.past.saveDue() {
				t.s.saveHistory()
			}
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
	s := t.s
	if s.writeError() != nil {
		return // waiting callers get the same error
	}
	for _, v := range s.catalog.all() {
		t.runJobs(ctx)
		if !t.retryDue(v) {
			continue
		}
		v.settleTries.Add(1)
		try := t.stateFor(v)
		err := t.settleVolume(ctx, v)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			v.settleFails.Store(0)
			v.mu.Lock()
			v.unstick()
			v.mu.Unlock()
		case !s.catalog.gone(v): // else it was deleted meanwhile
			t.settleFailed(v, try, fmt.Errorf("volume %s: %w", v.Name(), err))
		}
	}
}

func (t *settler) settleVolume(ctx context.Context, v *volume) error {
	v.activateLater()
	if t.waits(v) {
		return v.rest()
	}
	if t.due(v) {
		if _, err := v.freeze(); err != nil {
			return err
		}
	}
	for v.frozen() > 0 {
		err := t.settleLayer(ctx, v)
		if serr := t.s.sealFilled(&t.appenders); err == nil {
			err = serr
		}
		if errors.Is(err, errCounting) { // goes on after the other volumes
			t.ask()
			return nil
		}
		if err != nil {
			return err
		}
	}
	return v.rest()
}

// frozen counts the layers that wait to settle.
func (v *volume) frozen() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := len(v.layers)
	if v.writable {
		n--
	}
	return n
}

// due reports whether the volume's active layer should settle.
func (t *settler) due(v *volume) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.writable || !v.active().fresh {
		return false
	}
	if t.pressing(v) {
		return true
	}
	d := t.s.opts.SettleDelay
	return d >= 0 && t.s.uptime()-v.since > d
}

// waits reports whether the volume's settling waits: until the index is filled, so that it finds
// duplicates; and for a moment after the opening, since devices of a killed daemon wait to be
// served.
func (t *settler) waits(v *volume) bool {
	opening := t.s.uptime() < min(openingGrace, t.s.opts.SettleDelay)
	if !opening && !t.s.indexer.filling.Load() || t.awaited.Load() > 0 {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return !t.pressing(v) && len(v.layers) <= frozenLayers/2
}

// pressing reports whether settling may not wait for a quiet moment: the tail is long, or space is
// low.
// REQUIRES: v.mu is held.
func (t *settler) pressing(v *volume) bool {
	s := t.s
	if v.tail > s.opts.TailSoft || s.space.waiting.Load() > 0 || s.space.lowSpace.Load() && v.tail > 0 {
		return true
	}
	n := len(v.layers)
	return v.writable && v.layers[n-1].journal.Count() > v.layers[n-1].journal.Max()/2
}

// requests counts the requests of all volumes.
func (s *Store) requests() uint64 {
	var n uint64
	for _, v := range s.catalog.all() {
		v.mu.Lock()
		n += v.ops
		v.mu.Unlock()
	}
	return n
}

// Settle returns when everything written before the call has settled. What a damaged chunk pins in
// the tail does not settle, and is an error.
func (s *Store) Settle(ctx context.Context) error {
	for _, v := range s.catalog.all() {
		if err := ctx.Err(); err != nil {
			return err
		}
		gen, err := v.freeze()
		if err != nil {
			return err
		}
		if err := s.settler.waitSettled(ctx, v, gen); err != nil {
			return err
		}
	}
	if err := s.waitReclaimed(ctx, nil); err != nil {
		return err
	}
	var pinned []error
	for _, v := range s.catalog.all() {
		pinned = append(pinned, v.pinnedError())
	}
	return errors.Join(pinned...)
}

// waitSettled waits until the volume's base holds gen.
func (t *settler) waitSettled(ctx context.Context, v *volume, gen uint64) error {
	s := t.s
	t.awaited.Add(1)
	defer t.awaited.Add(-1)
	v.wanted.Add(1)
	defer v.wanted.Add(-1)
	before := v.settleTries.Load() // what came of these, the one under way too, is not the answer
	for {
		v.mu.Lock()
		done := v.baseGen >= gen
		v.mu.Unlock()
		if done || s.catalog.gone(v) {
			return nil
		}
		if err := v.damageError(); err != nil {
			return err
		}
		if err := s.writeError(); err != nil {
			return err
		}
		if p := v.settleErr.Load(); p != nil && p.number > before {
			return p.err
		}
		t.ask()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return ErrClosed
		case <-time.After(2 * time.Millisecond):
		}
	}
}
