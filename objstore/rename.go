package objstore

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/refs"
)

// RenameVolume changes the name of a volume, also while it is in use. Whatever has the volume or
// its snapshots open continues: only what asks for the volume by name from here on needs the new
// one. ErrExists if the name is taken. The name is durable when RenameVolume returns; after a crash
// the volume has one of the two.
func (s *Store) RenameVolume(ctx context.Context, name, to string) (VolumeInfo, error) {
	if err := CheckName("volume", to); err != nil {
		return VolumeInfo{}, err
	}
	v, err := s.catalog.renameVolume(ctx, name, to)
	if err != nil {
		return VolumeInfo{}, err
	}
	return s.catalog.info(v), nil
}

func (c *catalog) renameVolume(ctx context.Context, name, to string) (*volume, error) {
	var v *volume
	err := c.update(ctx, func() (_ []refs.Record, err error) {
		if v, err = c.volume(name); err != nil || name == to {
			return nil, err
		}
		if v.reserved != "" {
			return nil, fmt.Errorf("volume %s: %w: it is being %s", name, ErrInUse, v.reserved)
		}
		if err := c.refs.CheckRename(v.ref, to); err != nil {
			return nil, fmt.Errorf("volume %s: %w", to, err)
		}
		return []refs.Record{{Op: refs.OpRename, ID: v.ref.ID, To: to}}, nil
	}, func() {
		failpoint.Here(failpoint.VolumeRenamed)
		v.name.Store(&to)
	})
	return v, err
}

// RenameSnapshot changes the name of a snapshot, also while it is open. ErrExists if the volume has
// a snapshot of that name. The name is durable when RenameSnapshot returns; after a crash the
// snapshot has one of the two.
func (s *Store) RenameSnapshot(ctx context.Context, volume, snap, to string) (SnapshotInfo, error) {
	if err := CheckName("snapshot", to); err != nil {
		return SnapshotInfo{}, err
	}
	return s.catalog.renameSnapshot(ctx, volume, snap, to)
}

func (c *catalog) renameSnapshot(ctx context.Context, of, snap, to string) (info SnapshotInfo, err error) {
	var v *volume
	err = c.update(ctx, func() ([]refs.Record, error) {
		found, sn, err := c.snapshot(of, snap)
		switch {
		case err != nil:
			return nil, err
		case IsStateName(snap):
			return nil, fmt.Errorf("%s: %w: a past state is named by its number", imageText(of, snap), ErrInvalid)
		case snap == to:
			info = snapInfo(found.ref, sn)
			return nil, nil
		case found.damageError() != nil: // what a repair would lose is known by name
			return nil, found.damageError()
		case found.ref.Snapshots[to] != nil:
			return nil, fmt.Errorf("snapshot %s@%s: %w", of, to, ErrExists)
		}
		v = found
		return []refs.Record{{Op: refs.OpSnapshotRename, ID: v.ref.ID, Name: snap, To: to}}, nil
	}, func() {
		failpoint.Here(failpoint.SnapshotRenamed)
		info = snapInfo(v.ref, v.ref.Snapshots[to])
	})
	return info, err
}

// VolumeByID describes the volume with an ID, whatever it is called.
func (s *Store) VolumeByID(id string) (VolumeInfo, error) {
	v, err := s.catalog.byID(id)
	if err != nil {
		return VolumeInfo{}, err
	}
	return s.catalog.info(v), nil
}

func (c *catalog) byID(id string) (*volume, error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil, fmt.Errorf("volume ID %q: %w", id, ErrInvalid)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.volumes[parsed]
	if v == nil {
		return nil, fmt.Errorf("volume with ID %s: %w", id, ErrNotFound)
	}
	return v, nil
}
