package objstore

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
)

// A clone is a volume that begins with a settled root instead of with zeroes. In refs that is the
// record of a volume and the record of its head in one frame, which format version 1 allows: every
// version of varve opens a store that has clones.
//
//	volume  {id: N, name, size, block size, verify}
//	head    {id: N, gen: 0, root, logical}
//
// From then on nothing connects a clone with its origin. Both have roots of their own, and trees
// contain no locations, so either may be deleted first, and a read of the thousandth clone of a
// clone walks one tree, as deep as that of the first.
//
// What has no root yet settles first: layers belong to the volume that wrote them, and a clone over
// another volume's layers would depend on its origin until they had settled. A settling that is
// waited for runs at full speed, and only the first of many clones waits.

// settledState is a settled root, from which a volume can begin.
type settledState struct {
	root    merkle.Root
	logical int64 // bytes that are not holes
}

// CloneVolume makes a volume that begins with what a snapshot holds. If snap is empty it begins
// with what the volume holds at the call: everything that was acknowledged before the call is in
// it. No snapshot is named for that, and none is left over. What has not settled settles first. The
// clone has the size, block size and verification of its origin. ErrExists if the name is taken.
func (s *Store) CloneVolume(ctx context.Context, volume, snap, name string) (VolumeInfo, error) {
	if err := CheckName("volume", name); err != nil {
		return VolumeInfo{}, err
	}
	origin, err := s.catalog.mayClone(volume, name)
	if err != nil {
		return VolumeInfo{}, err
	}
	rec := refs.Record{Op: refs.OpVolume, ID: uuid.New(), Name: name, BlockSize: origin.BlockSize(), Verify: origin.verify.Load()}
	if snap != "" {
		return s.cloneSnapshot(ctx, volume, snap, rec)
	}
	n := &naming{}
	defer origin.unlist(n)
	state, err := s.settleNow(ctx, origin, n)
	if err != nil {
		return VolumeInfo{}, err
	}
	return s.addOver(ctx, rec, state, func() error { return s.catalog.stillHas(origin, n) })
}

// cloneSnapshot adds the volume of rec over a snapshot, once the snapshot has settled.
func (s *Store) cloneSnapshot(ctx context.Context, volume, snap string, rec refs.Record) (VolumeInfo, error) {
	v, sn, state, err := s.settledSnapshot(ctx, volume, snap)
	if err != nil {
		return VolumeInfo{}, err
	}
	return s.addOver(ctx, rec, state, func() error { return s.catalog.stillNamed(v, sn) })
}

// mayClone returns the volume that a clone of that name can be made of, as things are now.
func (c *catalog) mayClone(volume, name string) (*volume, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, err := c.volume(volume)
	switch {
	case err != nil:
		return nil, err
	case c.refs.Volumes[name] != nil:
		return nil, fmt.Errorf("volume %s: %w", name, ErrExists)
	case v.damageError() != nil:
		return nil, v.damageError()
	case v.ref.Scratch():
		return nil, fmt.Errorf("volume %s: %w: a scratch volume can't be cloned", volume, ErrInvalid)
	}
	return v, nil
}

// settleNow settles what the volume holds now, and returns it. The caller has made n, and calls
// unlist when the root is recorded, or will not be.
func (s *Store) settleNow(ctx context.Context, v *volume, n *naming) (settledState, error) {
	if err := s.freezeDurably(ctx, v, n); err != nil {
		return settledState{}, err
	}
	if err := s.settler.waitSettled(ctx, v, n.gen); err != nil {
		return settledState{}, fmt.Errorf("volume %s does not settle: %w", v.Name(), err)
	}
	failpoint.Here(failpoint.CloneSettled)
	v.mu.Lock()
	root, size, logical, settled := n.root, n.size, n.logical, n.settled
	v.mu.Unlock()
	if !settled {
		return settledState{}, errGone(v)
	}
	r, err := s.objects.Root(ctx, root, size)
	if err != nil {
		return settledState{}, fmt.Errorf("volume %s: %w", v.Name(), err)
	}
	return settledState{*r, logical}, nil
}

// errGone is for a volume that was deleted while something was made of it.
func errGone(v *volume) error {
	return fmt.Errorf("volume %s: %w: deleted meanwhile", v.Name(), ErrNotFound)
}

// errRolledBack is for a volume that was rolled back while something was made of it.
func errRolledBack(v *volume) error {
	return fmt.Errorf("volume %s: %w: it was rolled back meanwhile; try again", v.Name(), ErrInUse)
}

// stillHas returns an error if nothing may keep the root of what was frozen of a volume any more:
// the volume was deleted or rolled back.
// REQUIRES: mu is held.
func (c *catalog) stillHas(v *volume, n *naming) error {
	if c.refs.ByID[v.ref.ID] != v.ref {
		return errGone(v)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if n.lost {
		return errRolledBack(v)
	}
	return nil
}

// settledSnapshot returns a snapshot and what it holds, once it has settled.
func (s *Store) settledSnapshot(ctx context.Context, volume, snap string) (*volume, *refs.Snapshot, settledState, error) {
	v, sn, err := s.catalog.findSnapshot(volume, snap)
	if err != nil {
		return nil, nil, settledState{}, err
	}
	of := volume + "@" + snap
	if err := s.settler.waitSettled(ctx, v, sn.Gen); err != nil {
		return nil, nil, settledState{}, fmt.Errorf("snapshot %s does not settle: %w", of, err)
	}
	defer s.readers.lookups.Hold().Release() // before the root is looked at: the snapshot may be deleted while it is read
	s.catalog.mu.Lock()
	root, logical, settled := sn.Root, sn.Logical, sn.Settled && s.catalog.stillNamed(v, sn) == nil
	s.catalog.mu.Unlock()
	if !settled {
		return nil, nil, settledState{}, fmt.Errorf("snapshot %s: %w: deleted meanwhile", of, ErrNotFound)
	}
	r, err := s.objects.Root(ctx, root, sn.Size)
	if err != nil {
		return nil, nil, settledState{}, fmt.Errorf("snapshot %s: %w", of, err)
	}
	return v, sn, settledState{*r, logical}, nil
}

// stillNamed returns an error if a snapshot was deleted: nothing may keep its root any more.
// REQUIRES: mu is held.
func (c *catalog) stillNamed(v *volume, sn *refs.Snapshot) error {
	if c.refs.ByID[v.ref.ID] != v.ref || c.lookUp(v, sn.Name) != sn {
		return fmt.Errorf("%s: %w: deleted meanwhile", imageText(v.Name(), sn.Name), ErrNotFound)
	}
	return nil
}

// addOver records a volume that begins with a settled state. Of rec it sets the size and the time.
// still runs with catalog.mu held, and returns an error if nothing keeps the state's objects any
// more.
func (s *Store) addOver(ctx context.Context, rec refs.Record, state settledState, still func() error) (VolumeInfo, error) {
	rec.Size, rec.Time = state.root.Size, s.opts.Now().UTC()
	id := state.root.Hash()
	v, err := s.catalog.create(ctx, rec.ID, func() ([]refs.Record, error) {
		if s.catalog.refs.Volumes[rec.Name] != nil {
			return nil, fmt.Errorf("volume %s: %w", rec.Name, ErrExists)
		}
		if err := still(); err != nil {
			return nil, err
		}
		rec.Mark = s.catalog.refs.MarkFor(rec.Name, rec.ID)
		// Both in one frame: a volume without its head would be one of zeroes.
		return []refs.Record{rec, {Op: refs.OpHead, ID: rec.ID, Root: id.String(), Logical: state.logical}}, nil
	}, func(ref *refs.Volume) *volume {
		v := newVolume(s, ref, newBase(s.leaves, state.root))
		v.baseData = state.logical
		return v
	})
	if err != nil {
		return VolumeInfo{}, err
	}
	return s.catalog.info(v), nil
}
