package objstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
)

// A damaged volume is one whose journals, or whose root, can't be read to the end. What it held
// when it was last flushed is not known, so it is not opened, not settled, and nothing of it is
// changed; other volumes are not affected. RepairVolume takes it back to the last state that is
// known, and names what is lost by that.

// volumeDamage is why a volume is refused. It is immutable.
type volumeDamage struct {
	err      error
	root     bool // the settled state is lost; else a journal is damaged
	journals []string
	gens     []uint64

	keep    []*journal.Replay // generations to replay; the last one may have been cut
	drop    []string          // journals that a repair removes
	ranges  []Range           // what the records that a repair drops have written
	unknown int               // records that can't be read
	snaps   []string          // snapshots that a repair deletes
}

// Range is a run of bytes of an image.
type Range struct {
	Off int64 `json:"offset"` // bytes
	Len int64 `json:"length"` // bytes
}

// Repair is what a repair does, or would do, to a damaged volume.
type Repair struct {
	Volume string `json:"volume"`
	Damage string `json:"damage"`  // what can't be read
	BackTo string `json:"back_to"` // the state that is known
	// Time is when that state was the volume's: the time of the snapshot, of the last flush it
	// includes, or of its settling.
	Time time.Time `json:"time,omitzero"` // zero: unknown, in stores of older versions
	Lost []Range   `json:"lost"`          // written since, and lost; in order
	// Unknown is how many records of the journal can't be read: what they wrote is not known.
	Unknown   int      `json:"unknown_records"`
	Snapshots []string `json:"lost_snapshots"` // deleted by the repair
	Done      bool     `json:"done"`           // the repair was done; else this is what it would do
}

// damageError returns an error if the volume is damaged.
func (v *volume) damageError() error {
	if d := v.damage.Load(); d != nil {
		return fmt.Errorf("volume %s is damaged, and refused until it is repaired: %w", v.Name(), d.err)
	}
	return nil
}

// RepairVolume takes a damaged volume back to the last state that is known, if accept is set; else
// it only returns what that state would be and what would be lost.
func (s *Store) RepairVolume(ctx context.Context, name string, accept bool) (Repair, error) {
	v, err := s.catalog.find(name)
	if err != nil {
		return Repair{}, err
	}
	if err := v.settleMu.LockContext(ctx); err != nil {
		return Repair{}, err
	}
	defer v.settleMu.Unlock()
	d, err := s.lookAgain(ctx, v)
	if err != nil {
		return Repair{}, err
	}
	if d == nil {
		return Repair{}, fmt.Errorf("%w: the volume is not damaged", ErrInvalid)
	}
	r := Repair{Volume: name, Damage: d.err.Error(), Lost: d.ranges, Unknown: d.unknown, Snapshots: append([]string{}, d.snaps...)}
	if r.Lost == nil {
		r.Lost = []Range{}
	}
	var root *merkle.Root
	var to *refs.Snapshot
	if d.root {
		if root, to, err = s.newestRoot(ctx, v); err != nil {
			return r, err
		}
		if root == nil {
			return r, fmt.Errorf("no snapshot of it is left to go back to; delete it: %w", d.err)
		}
		r.BackTo, r.Time = "snapshot "+name+"@"+to.Name, to.Created
		r.Lost = []Range{{0, v.Size()}}
	} else {
		r.BackTo = fmt.Sprintf("generation %d", v.baseGen)
		if n := len(d.keep); n > 0 {
			r.BackTo = fmt.Sprintf("record %d of generation %d", len(d.keep[n-1].Records), d.keep[n-1].ID.Gen)
		}
		r.Time = s.timeOf(v, d)
	}
	if !accept {
		return r, nil
	}
	if err := cmp.Or(ctx.Err(), s.writeError()); err != nil {
		return r, err
	}
	if err := s.repair(ctx, v, d, root, to); err != nil {
		return r, err
	}
	s.log.Warn("a damaged volume was repaired", "volume", name, "back_to", r.BackTo, "damage", d.err)
	r.Done = true
	return r, nil
}

// timeOf returns when the volume was in the state that a repair would go back to; zero if nothing
// says.
func (s *Store) timeOf(v *volume, d *volumeDamage) time.Time {
	for _, rp := range slices.Backward(d.keep) {
		for _, c := range slices.Backward(rp.Commits) {
			if c.At < rp.Whole && !c.Time.IsZero() {
				return c.Time
			}
		}
	}
	return s.catalog.settledAt(v)
}

// settledAt returns when the settled state of a volume became its state.
func (c *catalog) settledAt(v *volume) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v.ref.Gen == 0 {
		return v.ref.Created // nothing has settled yet: the volume is all zeroes
	}
	return v.ref.Settled
}

// newestRoot returns the newest snapshot of the volume whose root can be read, and that root; nil if
// there is none. The error is that ctx has ended.
func (s *Store) newestRoot(ctx context.Context, v *volume) (*merkle.Root, *refs.Snapshot, error) {
	for _, sn := range slices.Backward(s.catalog.snapshotsOf(v)) {
		if !sn.Settled || sn.Root == v.ref.Root {
			continue
		}
		if r, err := s.objects.Root(ctx, sn.Root, sn.Size); err == nil {
			return r, sn, nil
		}
	}
	return nil, nil, ctx.Err()
}

// repair does what RepairVolume has found. A crash in between leaves a volume that is still
// damaged, or one that is repaired. If ctx ends before it is the repair's turn to change refs,
// nothing has been done; from then on the repair is carried out, whatever becomes of ctx.
func (s *Store) repair(ctx context.Context, v *volume, d *volumeDamage, root *merkle.Root, to *refs.Snapshot) error {
	if err := s.catalog.forget(ctx, v, d, to); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	drop := d.drop
	if root != nil {
		drop = d.journals
	}
	for _, name := range slices.Backward(drop) {
		if err := removeJournal(s.fs, name); err != nil {
			return err
		}
	}
	if err := s.fs.SyncDir(journal.Dir); err != nil {
		return err
	}
	if root == nil {
		err := s.replayer.replayLayers(ctx, v, d.keep)
		if errors.Is(err, errNotSynced) { // less is kept than was promised: the next opening assesses it again
			return s.fail(err)
		}
		if err != nil {
			return err
		}
	} else {
		v.mu.Lock()
		v.base, v.baseGen, v.baseData = newBase(s.leaves, *root), v.ref.Gen, to.Logical
		v.size.Store(root.Size)
		v.keepPromise()
		v.mu.Unlock()
	}
	s.reinstate(v)
	return nil
}

// lookAgain reads a refused volume once more if an error of its disk kept it from being read.
// REQUIRES: v.settleMu is held.
func (s *Store) lookAgain(ctx context.Context, v *volume) (*volumeDamage, error) {
	d := v.damage.Load()
	if v.dropped.Load() {
		return d, fmt.Errorf("volume %s: %w", v.Name(), ErrNotFound)
	}
	if d == nil || !disk.Unreadable(d.err) || s.writeError() != nil {
		return d, nil
	}
	root := v.base.root
	if d.root {
		r, err := s.objects.Root(ctx, v.ref.Root, v.ref.Size)
		if disk.Damaged(err) {
			return d, nil
		}
		if err != nil {
			return d, err
		}
		root = *r
	}
	h, err := s.replayer.readHistory(ctx, v, d.gens)
	if err != nil {
		return d, err
	}
	if h.damage != nil && d.root {
		return d, nil
	}
	if h.damage != nil {
		h.damage.gens = d.gens
		v.damage.Store(h.damage)
		return h.damage, nil
	}
	if err := s.replayer.takeHistory(ctx, v, h); err != nil {
		return d, err
	}
	v.mu.Lock()
	v.base = newBase(s.leaves, root)
	v.mu.Unlock()
	s.reinstate(v)
	s.log.Info("a volume that could not be read can be read again", "volume", v.Name())
	return nil, nil
}

// reinstate takes a refused volume back into service.
func (s *Store) reinstate(v *volume) {
	s.catalog.reinstate(v, &s.hold)
	s.settler.ask()
}

// reinstate removes the damage of a volume, and sets refused to whether any volume is still
// refused.
func (c *catalog) reinstate(v *volume, refused *atomic.Bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v.damage.Store(nil)
	refused.Store(c.anyRefused())
}

// forget removes from refs what a repair loses: snapshots, and, with to, the head, which becomes
// that snapshot.
func (c *catalog) forget(ctx context.Context, v *volume, d *volumeDamage, to *refs.Snapshot) error {
	return c.update(ctx, func() ([]refs.Record, error) {
		if c.refs.ByID[v.ref.ID] == nil {
			return nil, ErrNotFound
		}
		var recs []refs.Record
		for _, sn := range v.ref.Unsettled {
			if to != nil || slices.Contains(d.snaps, sn.Name) {
				recs = append(recs, refs.Record{Op: refs.OpSnapshotDelete, ID: v.ref.ID, Name: sn.Name})
			}
		}
		if to != nil {
			gen := v.ref.Gen
			if n := len(d.gens); n > 0 { // the journals are leftovers from now on
				gen = max(gen, d.gens[n-1])
			}
			head := refs.Record{Op: refs.OpHead, ID: v.ref.ID, Gen: gen, Root: to.Root.String(), Logical: to.Logical, Time: to.Created}
			if to.Size != v.ref.Size {
				head.Op, head.Size = refs.OpResize, to.Size
			}
			recs = append(recs, head)
		}
		return recs, nil
	}, nil)
}
