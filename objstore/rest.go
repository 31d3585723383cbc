package objstore

import "time"

// restAfter is how many settle delays a volume that nobody uses stays ready for writes.
const restAfter = 5

// rest gives back what a volume without users keeps open to take writes: its journal, which is empty, and its log
// segment if nothing lies in that. One that holds something stays, to be filled: sealed each time, it would make as many
// files as the volume is opened. Opening the volume makes anew what is missing. The settler calls it at its ticks.
func (v *volume) rest() error {
	s := v.s
	s.mu.Lock()
	used := len(v.users) > 0
	s.mu.Unlock()
	v.mu.Lock()
	idle := !used && v.writable && v.atRest()
	switch {
	case !idle:
		v.idleAt = 0
	case v.idleAt == 0:
		v.idleAt = s.uptime()
	}
	idle = idle && s.opts.SettleDelay >= 0 && s.uptime()-v.idleAt >= restAfter*min(s.opts.SettleDelay, time.Minute)
	v.mu.Unlock()
	if !idle {
		return nil
	}
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	if g := v.layDown(); g != nil {
		return s.retireOrSeal(v, g)
	}
	return nil
}

// atRest says that nothing is under way and nothing waits to settle. Under mu.
func (v *volume) atRest() bool {
	return v.inflight == 0 && len(v.layers) == 1 && v.active().empty() && !v.partial.exclusive
}

// layDown ends the volume's being writable, if still nobody uses it, and gives its log segment
// if that is to go. Whoever opens it
// meanwhile waits in activate for freezeMu, and makes it writable again.
func (v *volume) layDown() *segment {
	v.freezeMu.Lock()
	defer v.freezeMu.Unlock()
	v.commitMu.Lock()
	defer v.commitMu.Unlock()
	if !v.s.mu.TryLock() { // out of order: whoever has it may wait for freezeMu. The next tick tries again
		return nil
	}
	v.mu.Lock()
	ok := len(v.users) == 0 && !v.closed && v.writable && v.atRest()
	var j *journal
	g := v.log
	if ok {
		j = v.active().journal
		v.layers, v.writable, v.idleAt = nil, false, 0
		if g != nil && g.unsettled.Load() == 0 && g.blank() {
			g.full = true
		} else {
			g = nil
		}
	}
	v.mu.Unlock()
	v.s.mu.Unlock()
	if !ok {
		return nil
	}
	name := j.name
	j.close()
	if err := v.s.removeJournal(name); err != nil {
		v.s.log.Warn("an empty journal stays behind; the next opening removes it", "file", name, "error", err)
	}
	return g
}

// blank says that the segment holds no object.
func (g *segment) blank() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.objects) == 0 && g.dir == nil
}
