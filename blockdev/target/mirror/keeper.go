package mirror

import (
	"errors"
	"fmt"
	"log/slog"

	"varve/blockdev/target/backing"
	"varve/uring/queue"
)

// The keeper writes what the legs know of the set: states and pages of the bitmap. It is one
// goroutine, and the only one that does; the methods here are its own.

// keep does what requests wait for, until nothing is left to do.
func (a *array) keep() {
	for {
		a.mu.Lock()
		batch := a.waiting
		a.waiting = nil
		for _, o := range batch {
			o.taken = true
		}
		failing := a.failing
		a.mu.Unlock()
		if len(batch) == 0 && failing == 0 {
			return
		}
		err := a.commit(nil)
		if err == nil {
			err = a.intend(batch)
		}
		a.release(batch, err)
		if err != nil {
			return // tried again with the next request
		}
	}
}

// release has a batch go on.
func (a *array) release(batch []*op, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range batch {
		switch p := o.phase; {
		case !o.taken: // dropped meanwhile
		case p == phaseBegin && err == nil:
			o.phase, o.taken = phaseNone, false
			a.wake(o, queue.Again, nil)
		default:
			end := o.err
			if err != nil {
				end = err
				if p == phaseEnd {
					a.uneven = true
				}
			}
			a.leave(o)
			a.wake(o, queue.Answer, end)
		}
	}
}

// commit makes a change of the state durable on all legs that remain active, together with the legs
// that have failed, which go out. A leg that can't be written goes out by the same change. An error
// means that no leg in sync could be written, or that one could not which is to become active;
// nothing has changed then.
func (a *array) commit(change func(*state)) error {
	for {
		a.mu.Lock()
		if change == nil && a.failing == 0 {
			a.mu.Unlock()
			return nil
		}
		next := a.state
		if change != nil {
			change(&next)
		}
		gone := a.failing & next.active()
		for i := range next.legs {
			if gone.has(i) {
				next.parts[i], next.left[i] = partOut, a.state.events
			}
		}
		next.events++
		next.settled = a.settled
		a.state.events = next.events // also of one that fails: no two states have the same
		legs := a.legs
		a.mu.Unlock()

		failed, err := writeState(&next, &legs)
		a.mu.Lock()
		if a.state.in(partInSync)&^a.failing&^failed == 0 || failed&^a.state.active() != 0 {
			a.mu.Unlock()
			return fmt.Errorf("change the state of the mirror: %w", err)
		}
		if failed != 0 {
			a.fail(failed, err)
			a.mu.Unlock()
			continue
		}
		before := a.state
		a.settled = next.events
		a.state = next
		a.failing &^= gone
		a.publish()
		again := a.failing != 0
		var why [MaxLegs]error
		for i, l := range a.legs {
			if l != nil {
				why[i] = l.err
			}
		}
		a.mu.Unlock()
		a.tell(&before, &next, &legs, &why)
		if !again {
			return nil
		}
		change = nil
	}
}

// tell logs what has become of legs.
func (a *array) tell(before, now *state, legs *[MaxLegs]*leg, why *[MaxLegs]error) {
	for i := range now.legs {
		p := now.parts[i]
		if p == before.parts[i] {
			continue
		}
		if p == partOut {
			a.log.Error("a leg of a mirror has failed and was dropped", slog.Int("leg", i), slog.String("file", legs[i].Path()),
				slog.Any("err", why[i]), slog.Int("in_sync", len(now.list(partInSync))), slog.Int("legs", now.legs))
		} else {
			a.log.Info("a leg of a mirror has changed", slog.Int("leg", i), slog.String("file", legs[i].Path()), slog.String("state", p.String()))
		}
	}
}

// list returns the legs that have a part.
func (s *state) list(p part) (list []int) {
	for i := range s.legs {
		if s.parts[i] == p {
			list = append(list, i)
		}
	}
	return list
}

// writeState writes a state to its active legs, durably, and returns those that have failed.
func writeState(s *state, legs *[MaxLegs]*leg) (failed legSet, err error) {
	p := backing.Memory(stateSize)
	for i := range s.legs {
		if !s.active().has(i) {
			continue
		}
		l := legs[i]
		slot := 1 - l.slot // the other one stays whole
		s.encode(p, i)
		e := l.WriteAt(p, int64(slot)*stateSize)
		if e == nil {
			e = l.Sync()
		}
		if e != nil {
			failed |= one(i)
			err = errors.Join(err, legError(i, l.Path(), e))
			continue
		}
		l.slot = slot
	}
	return failed, err
}

func legError(i int, path string, err error) error {
	return fmt.Errorf("leg %d, %s: %w", i, path, err)
}

// intend makes the bits of the regions that ops are to write durable.
func (a *array) intend(batch []*op) error {
	for {
		a.mu.Lock()
		want := a.intent.clone()
		pages := map[int]bool{}
		for _, o := range batch {
			if !o.taken || o.phase != phaseBegin || o.span.end == o.span.off {
				continue
			}
			for i, last := a.regionsOf(&o.span); i <= last; i++ {
				if !want.has(i) {
					want.set(i)
					pages[i/pageRegions] = true
				}
			}
		}
		a.mu.Unlock()
		if len(pages) == 0 {
			return nil
		}
		failed, err := a.writePages(want, pages, true)
		switch {
		case failed == 0:
			a.mu.Lock()
			a.intent = want
			a.mu.Unlock()
			return nil
		case !a.failed(failed, err):
			return fmt.Errorf("write the intent of a write: %w", err)
		}
		if err := a.commit(nil); err != nil {
			return err
		}
	}
}

// failed notes legs that could not be written by the keeper, and reports whether one in sync is
// left.
func (a *array) failed(failed legSet, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	good := a.state.in(partInSync) &^ a.failing &^ failed
	a.fail(failed, err)
	return good != 0
}

// writePages writes pages of a bitmap to all active legs, durably if it is asked to.
func (a *array) writePages(b *bitmap, pages map[int]bool, durable bool) (failed legSet, err error) {
	a.mu.Lock()
	legs, active := a.legs, a.state.active()&^a.failing
	a.mu.Unlock()
	p := backing.Memory(pageSize)
	for i, l := range legs {
		if !active.has(i) {
			continue
		}
		var e error
		for page := range pages {
			b.encodePage(p, page)
			e = errors.Join(e, l.WriteAt(p, pageOffset(page)))
		}
		if durable && e == nil {
			e = l.Sync()
		}
		if e != nil {
			failed |= one(i)
			err = errors.Join(err, legError(i, l.Path(), e))
		}
	}
	return failed, err
}

// syncAll syncs all active legs, and returns those that have failed.
func (a *array) syncAll(which legSet) (failed legSet, err error) {
	a.mu.Lock()
	legs := a.legs
	a.mu.Unlock()
	for i, l := range legs {
		if !which.has(i) {
			continue
		}
		if e := l.Sync(); e != nil {
			failed |= one(i)
			err = errors.Join(err, legError(i, l.Path(), e))
		}
	}
	return failed, err
}

// whole reports whether all legs are in sync. Under mu.
func (a *array) whole() bool {
	return a.failing == 0 && !a.uneven && a.state.in(partInSync) == 1<<a.n-1
}

// forget clears the bits of regions that were not written since the last time. All legs have to be
// in sync: a bit says what a leg that is out lacks, too.
func (a *array) forget() {
	a.mu.Lock()
	if !a.whole() {
		a.mu.Unlock()
		return
	}
	rest, pages := a.intent.clone(), map[int]bool{}
	for i := rest.next(0); i >= 0; i = rest.next(i + 1) {
		from := int64(i) * a.region
		if !a.touched.has(i) && !a.ranges.covers(from, from+a.region) {
			rest.clear(i)
			pages[i/pageRegions] = true
		}
	}
	a.touched.clearAll()
	was := a.intent
	a.intent = rest // a write of the regions waits for the keeper from now on
	active := a.state.active()
	a.mu.Unlock()
	if len(pages) == 0 {
		return
	}
	failed, err := a.syncAll(active)
	if failed == 0 {
		// Not durably: a bit that comes back costs a copy.
		failed, err = a.writePages(rest, pages, false)
		was = rest // whatever has failed, some of it may be cleared
	}
	if failed != 0 {
		a.mu.Lock()
		a.intent = was
		a.fail(failed, err)
		a.mu.Unlock()
	}
}
