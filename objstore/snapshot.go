package objstore

import (
	"context"
	"fmt"
	"slices"

	"varve/objstore/failpoint"
	"varve/objstore/internal/merkle"
)

// naming is a snapshot that is frozen and has no name yet. What settles meanwhile leaves it its root. Guarded by
// volume.mu.
type naming struct {
	gen     uint64
	settled bool
	root    merkle.Hash
	logical int64
}

// CreateSnapshot freezes the volume; the snapshot is durable when it returns, and settles later. Of the store it holds no
// lock meanwhile but catalog.logMu, for the record of the name: it is in nobody's way.
func (s *Store) CreateSnapshot(ctx context.Context, volume, snap string) (SnapshotInfo, error) {
	if err := CheckName("snapshot", snap); err != nil {
		return SnapshotInfo{}, err
	}
	s.catalog.mu.Lock()
	v, err := s.volume(volume)
	if err == nil && v.ref.snaps[snap] != nil {
		err = fmt.Errorf("snapshot %s@%s: %w", volume, snap, ErrExists)
	}
	s.catalog.mu.Unlock()
	if err == nil {
		err = v.damageError()
	}
	if err == nil && v.ref.scratch() {
		err = fmt.Errorf("volume %s: %w: a scratch volume has no snapshots", volume, ErrInvalid)
	}
	if err == nil {
		err = s.settleKept(ctx, v)
	}
	if err != nil {
		return SnapshotInfo{}, err
	}
	// Each frozen layer has a journal: where room is short, they are not left to pile up.
	if n := v.frozen(); n > frozenLayers || n > 0 && s.tight.Load() {
		v.mu.Lock()
		gen := v.baseGen + 1
		v.mu.Unlock()
		if err := s.waitSettled(ctx, v, gen); err != nil {
			return SnapshotInfo{}, err
		}
	}
	n := &naming{}
	defer func() {
		v.mu.Lock()
		v.unlist(n)
		v.mu.Unlock()
	}()
	if _, err := v.freezeFor(n); err != nil {
		return SnapshotInfo{}, err
	}
	failpoint.Here(failpoint.SnapshotFrozen)
	if err := v.Flush(); err != nil {
		return SnapshotInfo{}, err
	}
	failpoint.Here(failpoint.SnapshotFlushed)
	return s.nameSnapshot(v, snap, n)
}

// nameSnapshot gives a name to what is frozen and durable.
func (s *Store) nameSnapshot(v *volume, snap string, n *naming) (info SnapshotInfo, err error) {
	volume := v.ref.name
	err = s.catalog.update(func() ([]refRecord, error) {
		if s.catalog.refs.byID[v.ref.id] == nil {
			return nil, fmt.Errorf("volume %s: %w", volume, ErrNotFound)
		}
		if v.ref.snaps[snap] != nil {
			return nil, fmt.Errorf("snapshot %s@%s: %w", volume, snap, ErrExists)
		}
		rec := refRecord{Op: opSnap, ID: v.ref.id, Name: snap, Gen: n.gen, Time: s.opts.Now().UTC()}
		v.mu.Lock()
		if n.settled {
			rec.Root, rec.Logical = n.root.String(), n.logical
		}
		v.mu.Unlock()
		return []refRecord{rec}, nil
	}, func() {
		v.mu.Lock()
		v.unlist(n)
		v.mu.Unlock()
		info = snapInfo(v.ref, v.ref.snaps[snap])
	})
	if err != nil {
		return SnapshotInfo{}, err
	}
	failpoint.Here(failpoint.SnapshotNamed)
	s.kickSettler()
	return info, nil
}

// enlist notes which generation a snapshot that is being made is of; nil: there is none. Under v.mu.
func (v *volume) enlist(n *naming, gen uint64) {
	if n == nil {
		return
	}
	if n.gen = gen; v.baseGen == gen {
		n.settle(v.base.id, v.baseData)
		return
	}
	v.namings = append(v.namings, n)
}

// settle gives the snapshot its root. Under volume.mu.
func (n *naming) settle(root merkle.Hash, logical int64) {
	n.settled, n.root, n.logical = true, root, logical
}

// unlist is for a snapshot that has its name, or gets none. Under v.mu.
func (v *volume) unlist(n *naming) {
	v.namings = slices.DeleteFunc(v.namings, func(o *naming) bool { return o == n })
}
