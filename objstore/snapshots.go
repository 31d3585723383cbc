package objstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
)

// naming is a frozen snapshot that has no name yet, or never gets one: a clone, or the state that a
// rollback keeps. If its layers settle meanwhile, the root is noted here. Nothing else may refer to
// that root by then, so a collection must keep it too. Guarded by volume.mu.
type naming struct {
	gen     uint64
	settled bool
	root    merkle.Hash
	size    int64 // bytes
	logical int64
	lost    bool // the volume was rolled back meanwhile: what was frozen is gone
}

// CreateSnapshot freezes the volume, makes what is frozen durable, and names it; the snapshot
// settles later. The catalog's log is locked for the name alone, so that no other volume waits for
// the freeze and the flush.
func (s *Store) CreateSnapshot(ctx context.Context, volume, snap string) (SnapshotInfo, error) {
	return s.createSnapshot(ctx, volume, snap, time.Time{})
}

// createSnapshot is CreateSnapshot; automatic is the time of the policy clock if the volume's
// policy has it made, else zero.
func (s *Store) createSnapshot(ctx context.Context, volume, snap string, automatic time.Time) (SnapshotInfo, error) {
	if err := CheckName("snapshot", snap); err != nil {
		return SnapshotInfo{}, err
	}
	v, err := s.catalog.mayName(volume, snap)
	if err != nil {
		return SnapshotInfo{}, err
	}
	n := &naming{}
	defer v.unlist(n)
	if err := s.freezeDurably(ctx, v, n); err != nil {
		return SnapshotInfo{}, err
	}
	info, err := s.catalog.name(ctx, v, snap, n, s.opts.Now().UTC(), automatic)
	if err != nil {
		return SnapshotInfo{}, err
	}
	failpoint.Here(failpoint.SnapshotNamed)
	s.settler.ask()
	return info, nil
}

// freezeDurably freezes the volume for n, and makes what is frozen durable. The caller enlists n by
// it, and calls unlist in any case.
func (s *Store) freezeDurably(ctx context.Context, v *volume, n *naming) error {
	if err := s.settler.settlePinned(ctx, v); err != nil {
		return err
	}
	// Each frozen layer has a journal: where room is short, they are not left to pile up.
	if frozen := v.backlog().frozen; frozen > frozenLayers || frozen > 0 && s.space.lowSpace.Load() {
		v.mu.Lock()
		gen := v.baseGen + 1
		v.mu.Unlock()
		if err := s.settler.waitSettled(ctx, v, gen); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := v.freezeFor(n); err != nil {
		return err
	}
	failpoint.Here(failpoint.SnapshotFrozen)
	if err := v.Flush(); err != nil {
		return err
	}
	failpoint.Here(failpoint.SnapshotFlushed)
	return nil
}

// mayName returns a volume that a snapshot of that name can be made of, as things are now.
func (c *catalog) mayName(volume, snap string) (*volume, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, err := c.volume(volume)
	switch {
	case err != nil:
		return nil, err
	case v.ref.Snapshots[snap] != nil:
		return nil, fmt.Errorf("snapshot %s@%s: %w", volume, snap, ErrExists)
	case v.damageError() != nil:
		return nil, v.damageError()
	case v.ref.Scratch():
		return nil, fmt.Errorf("volume %s: %w: a scratch volume has no snapshots", volume, ErrInvalid)
	}
	return v, nil
}

// name records the name of a snapshot that is frozen and durable, with the time created, and that
// it is automatic if that is not zero.
func (c *catalog) name(ctx context.Context, v *volume, snap string, n *naming, created, automatic time.Time) (info SnapshotInfo, err error) {
	err = c.update(ctx, func() ([]refs.Record, error) {
		if c.refs.ByID[v.ref.ID] == nil {
			return nil, fmt.Errorf("volume %s: %w", v.Name(), ErrNotFound)
		}
		if v.ref.Snapshots[snap] != nil {
			return nil, fmt.Errorf("snapshot %s@%s: %w", v.Name(), snap, ErrExists)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if n.lost {
			return nil, errRolledBack(v)
		}
		recs := []refs.Record{n.record(v.ref, snap, created)}
		if !automatic.IsZero() {
			recs = append(recs, refs.Record{Op: refs.OpAutomatic, ID: v.ref.ID, Name: snap, Time: automatic})
		}
		return recs, nil
	}, func() {
		v.unlist(n)
		info = snapInfo(v.ref, v.ref.Snapshots[snap])
	})
	return info, err
}

// enlist notes which generation a snapshot that is being made is of; nil: there is none.
// REQUIRES: v.mu is held.
func (v *volume) enlist(n *naming, gen uint64) {
	if n == nil {
		return
	}
	if n.gen = gen; v.baseGen == gen {
		n.settle(v.base.id, v.base.root.Size, v.baseData)
	}
	v.namings = append(v.namings, n) // a settled one too: what it refers to is not collected until it has its name
}

// settle sets the snapshot's root.
// REQUIRES: volume.mu is held.
func (n *naming) settle(root merkle.Hash, size, logical int64) {
	n.settled, n.root, n.size, n.logical = true, root, size, logical
}

// record returns the record of the snapshot.
// REQUIRES: volume.mu is held, or the snapshot has settled.
func (n *naming) record(ref *refs.Volume, snap string, created time.Time) refs.Record {
	rec := refs.Record{Op: refs.OpSnapshot, ID: ref.ID, Name: snap, Gen: n.gen, Time: created}
	if n.settled {
		rec.Root, rec.Logical = n.root.String(), n.logical
		if n.size != ref.Size { // the volume was resized since
			rec.Size = n.size
		}
	}
	return rec
}

// unlist is for a snapshot that has its name, or gets none.
func (v *volume) unlist(n *naming) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.namings = slices.DeleteFunc(v.namings, func(o *naming) bool { return o == n })
}

// reclaimPatience is how long a snapshot waits for room to be freed.
const reclaimPatience = time.Second

// WaitSnapshot returns when the snapshot has settled and its root is durable.
func (s *Store) WaitSnapshot(ctx context.Context, volume, snap string) (SnapshotInfo, error) {
	v, sn, err := s.catalog.findSnapshot(volume, snap)
	if err != nil {
		return SnapshotInfo{}, err
	}
	if err := s.settler.waitSettled(ctx, v, sn.Gen); err != nil {
		return SnapshotInfo{}, err
	}
	// The figures of stat are right after it as a rule; a reader that takes long is not waited for.
	brief, cancel := context.WithTimeout(ctx, reclaimPatience)
	_ = s.waitReclaimed(brief, v)
	cancel()
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	if !sn.Settled {
		return SnapshotInfo{}, fmt.Errorf("snapshot %s@%s: %w: deleted meanwhile", volume, snap, ErrNotFound)
	}
	return snapInfo(v.ref, sn), nil
}

// DeleteSnapshot removes the name; views that are open stay.
func (s *Store) DeleteSnapshot(ctx context.Context, volume, snap string) error {
	v, logical, err := s.catalog.deleteSnapshot(ctx, volume, snap)
	if err != nil {
		return err
	}
	s.collector.mayHaveDied(logical)
	failpoint.Here(failpoint.SnapshotDeleted)
	v.mayHelp() // its settling may have failed for what the snapshot needs
	return nil
}

// deleteSnapshot returns the volume, and the bytes of the snapshot that are not holes.
func (c *catalog) deleteSnapshot(ctx context.Context, volume, snap string) (v *volume, logical int64, err error) {
	err = c.update(ctx, func() ([]refs.Record, error) {
		found, sn, err := c.snapshot(volume, snap)
		if err != nil {
			return nil, err
		}
		if IsStateName(snap) {
			return nil, fmt.Errorf("%s: %w: it is a past state and not a snapshot; the volume's policy deletes it", imageText(volume, snap), ErrInvalid)
		}
		v, logical = found, sn.Logical
		return []refs.Record{{Op: refs.OpSnapshotDelete, ID: v.ref.ID, Name: snap}}, nil
	}, nil)
	return v, logical, err
}

// Snapshots of one volume, or of all if volume is empty, by volume and then in order of creation.
func (s *Store) Snapshots(volume string) ([]SnapshotInfo, error) {
	return s.catalog.snapshotInfos(volume)
}

func (c *catalog) snapshotInfos(volume string) ([]SnapshotInfo, error) {
	type entry struct {
		ref  refs.Volume // name and size alone
		snap refs.Snapshot
	}
	var all []entry
	c.mu.Lock() // for the copies alone: there may be very many
	list := c.refs.Sorted()
	if volume != "" {
		v, err := c.volume(volume)
		if err != nil {
			c.mu.Unlock()
			return nil, err
		}
		list = []*refs.Volume{v.ref}
	}
	for _, ref := range list {
		of := refs.Volume{Name: ref.Name, Size: ref.Size}
		for _, sn := range ref.Order {
			all = append(all, entry{of, *sn})
		}
	}
	c.mu.Unlock()
	out := make([]SnapshotInfo, len(all))
	for i := range all {
		out[i] = snapInfo(&all[i].ref, &all[i].snap)
	}
	return out, nil
}

// SnapshotInfo describes one snapshot.
func (s *Store) SnapshotInfo(volume, snap string) (SnapshotInfo, error) {
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	v, sn, err := s.catalog.snapshot(volume, snap)
	if err != nil {
		return SnapshotInfo{}, err
	}
	return snapInfo(v.ref, sn), nil
}

// snapInfo describes a snapshot.
// REQUIRES: catalog.mu is held, or ref and sn are copies.
func snapInfo(ref *refs.Volume, sn *refs.Snapshot) SnapshotInfo {
	i := SnapshotInfo{Volume: ref.Name, Name: sn.Name, Created: sn.Created, Size: sn.Size}
	i.Automatic = !sn.Automatic.IsZero()
	if sn.Settled {
		i.Root, i.Logical = sn.Root.String(), sn.Logical
	}
	return i
}

// findSnapshot returns the snapshot of two names, and its volume. Whether it has settled, and to
// which root, is read with mu held.
func (c *catalog) findSnapshot(volume, snap string) (*volume, *refs.Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.snapshot(volume, snap)
}

// snapshot is findSnapshot.
// REQUIRES: mu is held.
func (c *catalog) snapshot(volume, snap string) (*volume, *refs.Snapshot, error) {
	v, err := c.volume(volume)
	if err != nil {
		return nil, nil, err
	}
	sn := c.lookUp(v, snap)
	if sn == nil {
		return nil, nil, fmt.Errorf("%s: %w", imageText(volume, snap), ErrNotFound)
	}
	return v, sn, nil
}

// lookUp returns the snapshot or the past state of a volume that has the name; nil: there is none.
// REQUIRES: mu is held.
func (c *catalog) lookUp(v *volume, snap string) *refs.Snapshot {
	if IsStateName(snap) {
		return c.past.find(v.ref.ID, snap)
	}
	return v.ref.Snapshots[snap]
}

// imageText names a snapshot or a past state in a message.
func imageText(volume, snap string) string {
	if IsStateName(snap) {
		return fmt.Sprintf("state %s@%s in the history", volume, snap)
	}
	return fmt.Sprintf("snapshot %s@%s", volume, snap)
}

// snapshotsOf returns the snapshots of a volume in order of creation, for work that does not hold
// mu.
func (c *catalog) snapshotsOf(v *volume) []*refs.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(v.ref.Order)
}
