package objstore

import (
	"slices"
	"time"

	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
)

// restAfter is for how many settle delays an unused volume stays ready for writes.
const restAfter = 5

// rest releases what an unused volume keeps open for writes, once it has been unused for a while.
// The settler calls rest at each of its ticks.
func (v *volume) rest() error {
	if !v.restDue() {
		return nil
	}
	return v.deactivate()
}

// restDue reports whether the volume has been unused for long enough.
func (v *volume) restDue() bool {
	s := v.s
	used := !s.catalog.unused(v)
	v.mu.Lock()
	defer v.mu.Unlock()
	if used || !v.writable || !v.atRest() {
		v.idleAt = 0
		return false
	}
	if v.idleAt == 0 {
		v.idleAt = s.uptime()
	}
	return s.opts.SettleDelay >= 0 && s.uptime()-v.idleAt >= restAfter*min(s.opts.SettleDelay, time.Minute)
}

// atRest reports whether no write is under way and nothing waits to settle.
// REQUIRES: mu is held.
func (v *volume) atRest() bool {
	return v.inflight == 0 && len(v.layers) == 1 && v.active().empty() && !v.partial.exclusive
}

// deactivate undoes activate for an unused volume: its empty journal is removed, and its append
// segment goes to the pool, if it holds objects and has room left, or is sealed or retired. The
// next opening of the volume activates it again.
func (v *volume) deactivate() error {
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	if !v.s.reclaimer.idle(v) { // room in the segment is still being reclaimed
		return nil
	}
	if g := v.closeActive(); g != nil {
		return v.s.sealer.endOf(v, g)
	}
	return nil
}

// closeActive closes the active layer of a volume that is still unused, and returns the append
// segment if that is to be ended. An opening at the same time waits in activate for freezeMu, and
// then makes the volume writable again.
// REQUIRES: settleMu is held.
func (v *volume) closeActive() *segment.File {
	v.freezeMu.Lock()
	defer v.freezeMu.Unlock()
	v.commitMu.Lock()
	defer v.commitMu.Unlock()
	var j *journal.File
	v.s.catalog.ifUnused(v, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if !v.closed && v.writable && v.atRest() {
			j = v.active().journal
			v.layers, v.writable, v.idleAt = nil, false, 0
		}
	})
	if j == nil {
		return nil
	}
	name := j.Name()
	j.Close()
	if err := removeJournal(v.s.fs, name); err != nil {
		v.s.log.Warn("an empty journal was not removed; the next opening removes it", "file", name, "error", err)
	}
	return v.leaveAppendSegment()
}

// leaveAppendSegment takes the append segment from a volume that takes no writes. It puts the
// segment into the pool, or returns it if it is full, empty or damaged, and so is to be ended.
// REQUIRES: settleMu, freezeMu and commitMu are held.
func (v *volume) leaveAppendSegment() *segment.File {
	v.mu.Lock()
	g := v.appendSegment
	if g == nil || g.Ended || g.Unsettled.Load() != 0 {
		v.mu.Unlock()
		return nil
	}
	v.appendSegment = nil
	if g.Dirty { // all it holds has settled, and was synced for that
		v.dirty = slices.DeleteFunc(v.dirty, func(d *segment.File) bool { return d == g })
		g.Dirty = false
	}
	v.mu.Unlock()
	if g.Next+MaxRequest > g.Capacity || g.Blank() || g.Damaged() {
		g.Full = true // nothing else refers to the segment now
		return g
	}
	v.s.appendPool.put(g)
	return nil
}
