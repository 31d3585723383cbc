package objstore

import (
	"fmt"
	"slices"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
	"varve/objstore/queuethread"
)

// Flush makes everything committed before the call durable. It blocks; concurrent calls share one
// commit. After an error nothing may be taken for durable any more, and the store is read-only.
func (v *volume) Flush() error {
	v.mu.Lock()
	target := v.appended
	v.mu.Unlock()
	v.commitMu.Lock()
	defer v.commitMu.Unlock()
	return v.commitTo(target)
}

// TryFlush is Flush where it waits for nothing: there is nothing to make durable, or the store's
// file system is in memory and no other flush runs. Otherwise it does nothing and returns ErrBusy:
// call Flush, from a goroutine that may block. The other errors are those of Flush.
func (v *volume) TryFlush() error {
	if err := v.s.writeError(); err != nil {
		return err
	}
	v.mu.Lock()
	target, durable := v.appended, v.durable
	v.mu.Unlock()
	switch {
	case durable >= target:
		return nil
	case !v.s.inMemory || !v.commitMu.TryLock():
		return ErrBusy
	}
	defer v.commitMu.Unlock()
	var err error
	queuethread.Unwatched(func() { err = v.commitTo(target) })
	return err
}

// commitTo makes the first target records durable, and all that came since. The crash model rests
// on the order: first the data, then the commit record that vouches for it.
// REQUIRES: commitMu is held.
func (v *volume) commitTo(target uint64) error {
	if err := v.s.writeError(); err != nil {
		return err
	}
	if v.durable >= target {
		return nil
	}
	var todo []uncommitted
	v.mu.Lock()
	if v.closed { // its records are not committed any more
		defer v.mu.Unlock()
		return v.openError()
	}
	dirty := v.dirty
	v.dirty = nil
	for _, g := range dirty {
		g.Dirty = false
	}
	seq := v.appended
	for i, l := range v.layers {
		j, frozen := l.journal, i < len(v.layers)-1
		if j != nil && j.Uncommitted(frozen) {
			todo = append(todo, uncommitted{j, j.Count(), frozen})
		}
	}
	v.mu.Unlock()
	err := disk.Parallel(dirty, func(g *segment.File) error {
		if err := g.Sync(); err != nil {
			return v.failSync(segment.Name(g.ID), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.FlushData)
	for _, c := range todo {
		if err := v.commitJournal(c); err != nil {
			return err
		}
	}
	v.mu.Lock()
	v.durable = seq
	v.mu.Unlock()
	failpoint.Here(failpoint.FlushDone)
	for _, c := range todo {
		if !c.final {
			c.j.PrefaultNext(&v.mu)
		}
	}
	return nil
}

// uncommitted are the first records of a journal, which a commit is to make durable.
type uncommitted struct {
	j     *journal.File
	upto  int
	final bool // the generation is frozen
}

// commitJournal makes the records of a journal durable, and the commit record that vouches for them.
// REQUIRES: commitMu is held; the data of the records is durable.
func (v *volume) commitJournal(c uncommitted) error {
	// Before there is a commit record: the commit record of a flush that failed here would vouch for
	// records that are not durable, if another one followed it.
	if err := c.j.Link(v.s.fs); disk.Transient(err) {
		return err // the data is durable; the next flush commits it
	} else if err != nil {
		return v.failSync(journal.Dir, err)
	}
	r := journal.NewCommit(c.upto, c.final, time.Now())
	v.mu.Lock()
	err := c.j.Append(&r)
	behind := c.j.Count()
	v.mu.Unlock()
	if err != nil {
		return v.failSync(c.j.Name(), err)
	}
	failpoint.Here(failpoint.FlushCommit)
	if err := c.j.Sync(); err != nil {
		return v.failSync(c.j.Name(), err)
	}
	c.j.Mark(behind, c.final)
	v.mu.Lock()
	c.j.Committed(c.upto, c.final)
	v.mu.Unlock()
	return nil
}

// failSync turns the store read-only, and keeps its next opening from counting on what could not be
// synced.
func (v *volume) failSync(name string, err error) error {
	v.distrustJournals()
	return v.s.fail(fmt.Errorf("sync %s: %w", name, err))
}

// distrustJournals notes in the journals of the volume that what they refer to may not be durable.
func (v *volume) distrustJournals() {
	v.mu.Lock()
	layers := slices.Clone(v.layers)
	v.mu.Unlock()
	for _, l := range layers {
		l.journal.Distrust()
	}
}

// freeze closes the active layer and opens a new one. It returns the generation up to which the
// volume is frozen: the base and the layers up to that generation show what the volume held.
func (v *volume) freeze() (uint64, error) { return v.freezeFor(nil) }

// freezeFor is freeze for a snapshot whose name is recorded later: a settling until then leaves its
// root in n, until unlist. n is nil without a snapshot.
func (v *volume) freezeFor(n *naming) (uint64, error) {
	v.freezeMu.Lock()
	defer v.freezeMu.Unlock()
	gen, active := v.frozenFor(n)
	if active == nil {
		return gen, nil
	}
	// If this journal's name were lost, the next generation would look like one whose predecessor
	// is missing.
	if err := active.Link(v.s.fs); disk.Transient(err) {
		return 0, err
	} else if err != nil {
		return 0, v.failSync(journal.Dir, err)
	}
	j, err := v.createJournal(gen + 1)
	if err != nil {
		return 0, v.s.spaceError(err)
	}
	failpoint.Here(failpoint.RollCreated)
	for {
		v.mu.Lock()
		inflight := v.inflight
		v.mu.Unlock()
		if err = j.Extend(&v.mu, inflight); err != nil { // the writes in flight append their records to j
			break
		}
		if v.roll(j, n) {
			return gen, nil
		}
		if !v.isWritable() { // deleted or closed meanwhile
			break
		}
	}
	j.Close()
	_ = v.s.fs.Remove(j.Name()) // empty; else the next opening removes it
	if err != nil {
		return 0, v.s.spaceError(err)
	}
	gen, _ = v.frozenFor(n)
	return gen, nil
}

func (v *volume) createJournal(gen uint64) (*journal.File, error) {
	id := journal.ID{Store: v.s.sb.ID, Volume: v.ref.ID, Gen: gen}
	return journal.Create(v.s.fs, id, v.s.origin, v.s.opts.JournalRecords)
}

// frozenFor returns the generation that takes writes, and its journal. If that generation is empty,
// or the volume can't be written, it returns the newest frozen generation, without a journal.
// REQUIRES: v.freezeMu is held.
func (v *volume) frozenFor(n *naming) (gen uint64, active *journal.File) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.writable && !v.active().empty() {
		return v.active().gen, v.active().journal
	}
	v.enlist(n, v.frozenGen())
	return v.frozenGen(), nil
}

// roll freezes the active layer, unless the volume takes no writes any more, or more writes have
// begun than the new journal has room for.
// REQUIRES: v.freezeMu is held.
func (v *volume) roll(j *journal.File, n *naming) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.writable || !j.Ready(v.inflight) {
		return false
	}
	gen := v.active().gen
	v.active().reservation.freeze()
	v.layers = append(v.layers, newLayer(gen+1, j))
	v.enlist(n, gen)
	v.since, v.extending = 0, false
	failpoint.Here(failpoint.RollFrozen)
	v.room.fire()
	return true
}

func (v *volume) isWritable() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.writable
}

// frozenGen is the newest generation that takes no more writes.
// REQUIRES: v.mu is held.
func (v *volume) frozenGen() uint64 {
	n := len(v.layers)
	if v.writable {
		n--
	}
	if n == 0 {
		return v.baseGen
	}
	return v.layers[n-1].gen
}

// activate makes the volume writable: it adds a new layer with a journal of its own. If there is no
// room for the journal, the settler tries again once there is.
func (v *volume) activate() error {
	v.freezeMu.Lock()
	defer v.freezeMu.Unlock()
	v.mu.Lock()
	writable, gen := v.writable, v.frozenGen()
	v.mu.Unlock()
	if writable {
		return nil
	}
	j, err := v.createJournal(gen + 1)
	if err == nil {
		if err = v.begin(gen+1, j); err != nil {
			j.Close()
			_ = v.s.fs.Remove(j.Name())
		}
		return err
	}
	v.mu.Lock()
	v.unjournaled = true
	v.mu.Unlock()
	return v.s.spaceError(err)
}

// begin adds the first layer that takes writes.
// REQUIRES: v.freezeMu is held.
func (v *volume) begin(gen uint64, j *journal.File) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.openError(); err != nil {
		return err
	}
	v.layers = append(v.layers, newLayer(gen, j))
	v.writable, v.unjournaled, v.extending = true, false, false
	return nil
}

// activateLater activates a volume whose opening found no room for a journal.
func (v *volume) activateLater() {
	v.mu.Lock()
	want := v.unjournaled && !v.closed
	v.mu.Unlock()
	if !want {
		return
	}
	// The journal may take as much of the reserve as opening would have let it.
	if free, _, err := v.s.space.rooms(); err == nil && free > v.s.space.reserve.Load()/2 {
		_ = v.activate() // an error is tried again at the next tick
	}
}

// shut takes the volume out of service after a last commit. It returns its journals, which stay for
// the next opening, but for an empty one, which is removed.
func (v *volume) shut() (left []string, err error) {
	v.freezeMu.Lock()
	defer v.freezeMu.Unlock()
	v.commitMu.Lock() // to the end: another flush would find the journals closed
	defer v.commitMu.Unlock()
	v.mu.Lock()
	target := v.appended
	v.mu.Unlock()
	err = v.commitTo(target)
	failpoint.Here(failpoint.CloseCommitted)
	v.mu.Lock()
	layers, writable := v.layers, v.writable
	v.layers, v.writable, v.closed = nil, false, true
	v.mu.Unlock()
	v.room.fire()
	for i, l := range layers {
		if l.journal == nil {
			continue
		}
		if err == nil {
			l.journal.MarkCommitted()
		}
		l.journal.Close()
		if writable && i == len(layers)-1 && l.empty() && err == nil {
			err = v.s.fs.Remove(l.journal.Name())
			continue
		}
		left = append(left, l.journal.Name())
	}
	return left, err
}
