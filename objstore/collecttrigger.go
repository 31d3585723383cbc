package objstore

import (
	"context"
	"time"
)

// Cycles are begun by need: when much has died since the last one, or when room is short and
// anything has. How much has died is known when the accounting is complete (Store.dead). Until then
// there is an upper bound: the bytes of deleted volumes and snapshots, which others may share, and
// those that settled, each of which may have replaced another one. So a cycle that frees little of
// what was expected makes the next one wait for more.

// collectNeed says when the store begins a cycle itself.
type collectNeed struct {
	never bool
	tick  time.Duration // between two looks at what has died

	// pause is how long after a cycle, or after the opening, another one begins at the earliest; it
	// takes factor times as long as the cycle took, if that is more. The others are the same while room
	// is short.
	pause, shortPause   time.Duration
	factor, shortFactor time.Duration
	waitedPause         time.Duration // shortPause where a request waits for the cycle

	// least and leastShort are how many bytes have died at least.
	least, leastShort int64
}

// defaultNeed is the default of Options.collectNeed.
var defaultNeed = collectNeed{
	tick:  time.Second,
	pause: time.Minute, factor: 8, least: 64 << 20,
	shortPause: 10 * time.Second, shortFactor: 2, leastShort: 4 << 20, waitedPause: time.Second,
}

const (
	// suspectShare is the part of what is stored that has died before a cycle begins, unless room is
	// short.
	suspectShare = 8
	// largestDoubt bounds by what the need, and the pause while room is short, is multiplied after
	// cycles that have freed little. So a cycle begins whenever half of what is stored has died.
	largestDoubt = suspectShare / 2
)

// trigger decides when the store begins a cycle itself. Only the collector's goroutine uses it.
type trigger struct {
	collectNeed
	ended time.Duration // the uptime at the end of the last cycle, or at the opening
	took  time.Duration // the last cycle
	doubt int64         // by what the need is multiplied
}

// due reports whether a cycle is to begin. suspect and stored are in bytes; waited says that requests
// wait for room, and that a cycle may make some.
func (t *trigger) due(uptime time.Duration, suspect, stored int64, short, waited bool) bool {
	since := uptime - t.ended
	if waited && since >= max(t.waitedPause, t.shortFactor*t.took) {
		return true
	}
	if short && suspect >= t.leastShort && since >= max(t.shortPause, t.shortFactor*t.took)*time.Duration(t.doubt) {
		return true
	}
	return suspect >= max(t.least, stored/suspectShare)*t.doubt && since >= max(t.pause, t.factor*t.took)
}

// note takes note of a cycle that has freed bytes of those that were suspect.
func (t *trigger) note(uptime, took time.Duration, suspect, freed int64) {
	t.ended, t.took = uptime, took
	if t.doubt *= 2; freed >= suspect/suspectShare {
		t.doubt = 1
	}
	t.doubt = min(t.doubt, largestDoubt)
}

// run begins cycles until ctx ends.
func (c *collector) run(ctx context.Context) {
	t := trigger{collectNeed: c.s.opts.collectNeed, ended: c.s.uptime(), doubt: 1}
	if t.never {
		return
	}
	c.suspect.CompareAndSwap(0, c.stored()/suspectShare) // what died before the opening is not known
	tick := time.NewTicker(t.tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.runIfDue(ctx, &t)
	}
}

// runIfDue begins a cycle if there is need for one.
func (c *collector) runIfDue(ctx context.Context, t *trigger) {
	if c.s.hold.Load() || c.s.writeError() != nil {
		return
	}
	suspect := c.mayBeDead()
	waited := c.waiting.Load() > 0 && c.worthwhile()
	if !t.due(c.s.uptime(), suspect, c.stored(), c.s.space.short(), waited) {
		return
	}
	began := c.s.uptime()
	r, err := c.collect(ctx, cycleOptions{})
	now := c.s.uptime()
	t.note(now, now-began, suspect, r.Freed)
	if err != nil && ctx.Err() == nil {
		t.took = max(t.took, t.pause) // it is not to be in the log each minute
	}
}

// mayBeDead returns how many bytes have died since the last cycle, or may have as long as that is not
// counted. What settles at the moment counts as dead until it is published.
func (c *collector) mayBeDead() int64 {
	if dead, known := c.s.dead(); known {
		return max(dead-c.left.Load(), 0)
	}
	return c.suspect.Load()
}

// noteLeft takes note of what a cycle has left.
func (c *collector) noteLeft(r *CollectReport, err error) {
	c.left.Store(r.Kept)
	futile := int64(0)
	if err != nil || r.Freed < c.s.opts.collectNeed.leastShort {
		futile = c.mayBeDead()
	}
	c.futile.Store(futile)
}

// worthwhile reports whether a cycle may free enough for the requests that wait for room.
func (c *collector) worthwhile() bool {
	return c.mayBeDead()-c.futile.Load() >= c.s.opts.collectNeed.leastShort
}

// promising reports whether a request that finds no room is worth waiting: a cycle runs, or one will
// that may free something, or it will be known in a moment whether one does. It never blocks.
func (c *collector) promising() bool {
	need := &c.s.opts.collectNeed
	if need.never || c.s.hold.Load() || c.s.writeError() != nil {
		return false
	}
	return c.frees() || c.worthwhile() || c.suspect.Load() >= need.leastShort && c.s.accounting.behind()
}

// frees reports whether a cycle runs that is no dry run. It never blocks.
func (c *collector) frees() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Phase != CollectIdle && !c.state.DryRun
}

// stored returns how many bytes of objects there are.
func (c *collector) stored() int64 { return c.s.stored.total() }

// mayHaveDied notes that up to n bytes may have died.
func (c *collector) mayHaveDied(n int64) {
	if n > 0 {
		c.suspect.Add(n)
	}
}
