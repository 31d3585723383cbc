package objstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
)

// A rollback makes a settled snapshot the content of its volume again. It writes one frame:
//
//	snapshot {name, gen, root, logical}   the state before, unless it is not to be kept
//	head     {gen, root, logical}         the snapshot's root, with a generation above every journal
//
// The frame decides: before it the volume is as it was, and after it every journal of the volume is
// a leftover, which an opening removes, as after a repair. Only then do the journals and the space
// of the dropped layers go.
//
// Nothing may still need a dropped layer. So a rollback begins with what needs one: it settles the
// state that it keeps, snapshots that have not settled, and views of such snapshots. Of the rest of
// the tail nothing is read.

// RollbackOptions are options of RollbackVolume. The zero value is the default.
type RollbackOptions struct {
	// NoSnapshot drops the present state instead of keeping it as a snapshot.
	NoSnapshot bool
}

// Rollback is the result of RollbackVolume.
type Rollback struct {
	Volume   VolumeInfo // as it is now
	Snapshot string     // that the state before was kept as; empty: it was not kept
}

// RollbackVolume makes a snapshot the content of its volume again. The present state is kept as a
// snapshot whose name is made of the time, unless o.NoSnapshot is set or the volume holds what the
// snapshot holds. ErrInUse while the volume is open; it cannot be opened meanwhile. The volume is
// rolled back durably, or as it was. ctx also bounds the wait for the dropped space, but not the
// freeing: the next opening does what is left of it.
func (s *Store) RollbackVolume(ctx context.Context, volume, snap string, o RollbackOptions) (Rollback, error) {
	v, err := s.catalog.beginRollback(volume, snap)
	if err != nil {
		return Rollback{}, err
	}
	defer s.catalog.unreserve(v)
	r := &rollback{s: s, v: v, snap: snap, keep: !o.NoSnapshot, now: s.opts.Now().UTC()}
	defer v.unlist(&r.present)
	if err := settleAndTry(ctx, r.try); err != nil {
		return Rollback{}, err
	}
	if err := r.drop(ctx); err != nil {
		return Rollback{}, err
	}
	return Rollback{Volume: s.catalog.info(v), Snapshot: r.kept}, nil
}

// rollback is one call of RollbackVolume.
type rollback struct {
	s    *Store
	v    *volume
	snap string
	keep bool
	now  time.Time

	present naming // the state before, if it is kept
	kept    string // its name

	layers  []*layer     // dropped, and not freed yet
	readers *segment.Pin // of the layers
}

// errStillNeeded: a snapshot that has not settled came into being meanwhile.
var errStillNeeded = errors.New("a snapshot has not settled yet")

// settleAndTry calls try, which settles what has to settle first, until nothing has to settle
// again.
func settleAndTry(ctx context.Context, try func(context.Context) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := try(ctx); !errors.Is(err, errStillNeeded) && !errors.Is(err, errCounting) {
			return err
		}
	}
}

// beginRollback returns a volume that can be rolled back, and keeps it from being opened until
// unreserve.
func (c *catalog) beginRollback(volume, snap string) (*volume, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, _, err := c.snapshot(volume, snap)
	switch {
	case err != nil:
		return nil, err
	case v.ref.Scratch():
		return nil, fmt.Errorf("volume %s: %w: a scratch volume has no snapshots", volume, ErrInvalid)
	case v.damageError() != nil:
		return nil, v.damageError()
	case len(v.users) > 0:
		return nil, fmt.Errorf("volume %s: %w by %s", volume, ErrInUse, strings.Join(v.users, ", "))
	case v.reserved != "":
		return nil, fmt.Errorf("volume %s: %w: it is being %s", volume, ErrInUse, v.reserved)
	}
	v.reserved = "rolled back"
	return v, nil
}

// unreserve lets a volume be opened again.
func (c *catalog) unreserve(v *volume) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v.reserved = ""
}

// try settles what needs the layers, and then rolls back, unless something needs them again.
func (r *rollback) try(ctx context.Context) error {
	s, v := r.s, r.v
	_, sn, target, err := s.settledSnapshot(ctx, v.Name(), r.snap)
	if err != nil {
		return err
	}
	if r.keep && !r.present.settled {
		if _, err := s.settleNow(ctx, v, &r.present); err != nil {
			return err
		}
	}
	if gen := s.catalog.needed(v); gen > 0 {
		if err := s.settler.waitSettled(ctx, v, gen); err != nil {
			return fmt.Errorf("a snapshot of volume %s does not settle: %w", v.Name(), err)
		}
	}
	if err := v.settleMu.LockContext(ctx); err != nil { // no layer settles, or is relogged, from here on
		return err
	}
	defer v.settleMu.Unlock()
	return r.record(ctx, sn, target)
}

// needed returns the newest generation whose layer a snapshot or view needs that has not settled;
// 0: there is none.
func (c *catalog) needed(v *volume) (gen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.neededLocked(v)
}

// neededLocked is needed.
// REQUIRES: mu is held.
func (c *catalog) neededLocked(v *volume) (gen uint64) {
	for _, sn := range v.ref.Unsettled {
		gen = max(gen, sn.Gen)
	}
	for w := range c.views {
		if w.v == v && w.Root() == "" { // its snapshot may have been deleted
			gen = max(gen, w.gen)
		}
	}
	return gen
}

// record makes the rollback durable, and lets it take effect.
// REQUIRES: v.settleMu is held.
func (r *rollback) record(ctx context.Context, sn *refs.Snapshot, target settledState) error {
	c, v := r.s.catalog, r.v
	id := target.root.Hash()
	base := newBase(r.s.leaves, target.root)
	var gen uint64
	return c.update(ctx, func() ([]refs.Record, error) {
		if err := c.stillNamed(v, sn); err != nil {
			return nil, err
		}
		if c.neededLocked(v) > 0 {
			return nil, errStillNeeded
		}
		newest, unchanged := v.newest(&base.root)
		if unchanged {
			return nil, nil
		}
		var recs []refs.Record
		if r.keep {
			r.kept = keptName(v.ref, r.now)
			recs = append(recs, r.present.record(v.ref, r.kept, r.now))
		}
		// A freeze that is under way may add one more journal, which stays empty: there are no
		// writers.
		gen = newest + 1
		head := refs.Record{Op: refs.OpHead, ID: v.ref.ID, Gen: gen, Root: id.String(), Logical: target.logical, Time: r.now.Truncate(time.Second)}
		if sn.Size != v.ref.Size { // the volume gets the size of the snapshot too
			head.Op, head.Size = refs.OpResize, sn.Size
		}
		return append(recs, head), nil
	}, func() {
		failpoint.Here(failpoint.RollbackRecorded)
		r.layers, r.readers = v.reset(base, gen, target.logical)
	})
}

// keptName returns the name of the snapshot that keeps the state before a rollback.
func keptName(ref *refs.Volume, now time.Time) string {
	name := "rollback-" + now.Format("20060102T150405Z")
	for i := 2; ref.Snapshots[name] != nil; i++ {
		name = fmt.Sprintf("rollback-%s-%d", now.Format("20060102T150405Z"), i)
	}
	return name
}

// newest returns the volume's newest generation, and whether the volume holds what root does.
// REQUIRES: catalog.mu is held.
func (v *volume) newest(root *merkle.Root) (gen uint64, unchanged bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	gen, unchanged = v.baseGen, v.base.root == *root
	for _, l := range v.layers {
		gen = max(gen, l.gen)
		unchanged = unchanged && l.empty()
	}
	return gen, unchanged
}

// reset drops all layers, and makes base the volume's content up to gen. It returns the layers, and
// the pin that is done when no plan reads them any more.
// REQUIRES: settleMu and catalog.mu are held, and the volume is not open.
func (v *volume) reset(base *base, gen uint64, logical int64) ([]*layer, *segment.Pin) {
	v.counted, v.obstacle = nil, obstacle{}
	v.mu.Lock()
	defer v.mu.Unlock()
	layers, readers := v.layers, v.replacePin()
	v.base.drop()
	v.base, v.baseGen, v.baseData = base, gen, logical
	v.size.Store(base.root.Size)
	v.layers, v.writable, v.unjournaled, v.extending, v.tail, v.since = nil, false, false, false, 0, 0
	v.keepPromise()
	for _, l := range layers {
		v.s.space.settled(l)
	}
	for _, n := range v.namings {
		n.lost = true
	}
	v.attempts.failed.Store(0)
	v.unstick(v.s.space)
	v.pins.Store(nil)
	v.room.fire()
	return layers, readers
}

// drop frees what the dropped layers occupy. If ctx ends first, or the store is closed, the next
// opening does that.
func (r *rollback) drop(ctx context.Context) error {
	if r.readers == nil {
		return nil // nothing was changed
	}
	r.v.commitMu.Lock() // a commit that began before may write to them
	for _, l := range r.layers {
		l.journal.Close()
	}
	r.v.commitMu.Unlock()
	done := make(chan error, 1)
	if !r.s.background(func() { done <- r.free() }) {
		return nil
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("volume %s is rolled back, but the space of what was dropped is not free yet: %w", r.v.Name(), ctx.Err())
	}
}

// free frees what the dropped layers occupy, and lets the append segment go to another volume.
func (r *rollback) free() error {
	s, v := r.s, r.v
	if !s.remover.waitReaders(r.readers) {
		return nil
	}
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	if err := s.remover.drop(v, r.layers); err != nil {
		return err
	}
	if g := v.giveSegment(); g != nil {
		return s.sealer.endOf(v, g)
	}
	return nil
}

// giveSegment is leaveAppendSegment for a volume that has not been opened again.
// REQUIRES: settleMu is held.
func (v *volume) giveSegment() *segment.File {
	v.freezeMu.Lock()
	defer v.freezeMu.Unlock()
	v.commitMu.Lock()
	defer v.commitMu.Unlock()
	if v.isWritable() {
		return nil
	}
	return v.leaveAppendSegment()
}
