package objstore

import (
	"slices"
	"time"

	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
)

// restAfter is how many settle delays a volume that nobody uses stays ready for writes.
const restAfter = 5

// rest gives back what a volume that nobody has used for a while keeps open to take writes. The settler calls it at its
// ticks.
func (v *volume) rest() error {
	if !v.restDue() {
		return nil
	}
	return v.lieDown()
}

// restDue says that nobody has used the volume for long enough.
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

// atRest says that nothing is under way and nothing waits to settle.
// REQUIRES: mu is held.
func (v *volume) atRest() bool {
	return v.inflight == 0 && len(v.layers) == 1 && v.active().empty() && !v.partial.exclusive
}

// lieDown gives back the journal of a volume without users, which is empty, and its append segment: to the pool, if objects
// lie in it and it has room. Opening the volume makes anew what is missing.
func (v *volume) lieDown() error {
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	if !v.s.reclaimer.idle(v) { // a settled layer still gives back room in the segment
		return nil
	}
	if g := v.layDown(); g != nil {
		return v.s.retireOrSeal(v, g)
	}
	return nil
}

// layDown ends the volume's being writable, if still nobody uses it, and gives its append segment if that is to end. Whoever
// opens the volume meanwhile waits in activate for freezeMu, and makes it writable again.
// REQUIRES: settleMu is held.
func (v *volume) layDown() *segment.File {
	v.freezeMu.Lock()
	defer v.freezeMu.Unlock()
	v.commitMu.Lock()
	defer v.commitMu.Unlock()
	if !v.s.catalog.mu.TryLock() { // out of order: whoever has it may wait for freezeMu. The next tick tries again
		return nil
	}
	v.mu.Lock()
	ok := len(v.users) == 0 && !v.closed && v.writable && v.atRest()
	var j *journal.File
	if ok {
		j = v.active().journal
		v.layers, v.writable, v.idleAt = nil, false, 0
	}
	v.mu.Unlock()
	v.s.catalog.mu.Unlock()
	if !ok {
		return nil
	}
	name := j.Name()
	j.Close()
	if err := v.s.removeJournal(name); err != nil {
		v.s.log.Warn("an empty journal stays behind; the next opening removes it", "file", name, "error", err)
	}
	return v.leaveAppendSegment()
}

// leaveAppendSegment takes the append segment from a volume that takes no writes, and puts it into the pool, or gives it if it is to
// end.
// REQUIRES: settleMu, freezeMu and commitMu are held.
func (v *volume) leaveAppendSegment() *segment.File {
	v.mu.Lock()
	g := v.appendSegment
	if g == nil || g.Ended || g.Unsettled.Load() != 0 {
		v.mu.Unlock()
		return nil
	}
	v.appendSegment = nil
	if g.Dirty { // what it holds has settled, and was synced then
		v.dirty = slices.DeleteFunc(v.dirty, func(d *segment.File) bool { return d == g })
		g.Dirty = false
	}
	v.mu.Unlock()
	if g.Next+MaxRequest > g.Capacity || g.Blank() || g.Damaged() {
		g.Full = true // nobody else knows the segment now
		return g
	}
	v.s.appendPool.put(g)
	return nil
}
