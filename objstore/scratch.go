package objstore

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
)

// A scratch volume is a throwaway layer over a snapshot: a file system that has to replay its
// journal finds a disk to write to, and the snapshot stays as it is. In refs a scratch volume is a
// volume like any other, whose head is the snapshot's root from the start, so that every version of
// varve opens a store that has one, serves its device, and keeps what the root refers to. A scratch
// volume is recognised by its name, which is made of its own ID. No other volume can have such a
// name, for the ID of a volume is chosen at random when the volume is created.
//
// The creator of a scratch volume deletes it when its device is gone, or finds it in ScratchVolumes
// later.

// CreateScratch creates a scratch volume over a snapshot, once the snapshot has settled. Volumes,
// Roots and the count of Stat leave it out; every method that takes the name of a volume accepts
// its name, but for CreateSnapshot.
func (s *Store) CreateScratch(ctx context.Context, volume, snap string) (VolumeInfo, error) {
	of := volume + "@" + snap
	v, sn, err := s.catalog.findSnapshot(volume, snap)
	if err != nil {
		return VolumeInfo{}, err
	}
	if v.ref.Scratch() {
		return VolumeInfo{}, fmt.Errorf("snapshot %s: %w: it is of a scratch volume", of, ErrInvalid)
	}
	if err := s.settler.waitSettled(ctx, v, sn.Gen); err != nil {
		return VolumeInfo{}, fmt.Errorf("snapshot %s does not settle: %w", of, err)
	}
	s.catalog.mu.Lock()
	root, settled := sn.Root, sn.Settled
	s.catalog.mu.Unlock()
	if !settled {
		return VolumeInfo{}, fmt.Errorf("snapshot %s: %w: deleted meanwhile", of, ErrNotFound)
	}
	r, err := s.objects.Root(root, v.ref.Size)
	if err != nil {
		return VolumeInfo{}, fmt.Errorf("snapshot %s: %w", of, err)
	}
	return s.addScratch(ctx, v, sn, r, of)
}

// addScratch records a scratch volume over a settled snapshot, whose root is r.
func (s *Store) addScratch(ctx context.Context, v *volume, sn *refs.Snapshot, r *merkle.Root, of string) (VolumeInfo, error) {
	id := uuid.New()
	w, err := s.catalog.create(ctx, id, func() ([]refs.Record, error) {
		if s.catalog.refs.ByID[v.ref.ID] != v.ref || v.ref.Snapshots[sn.Name] != sn {
			return nil, fmt.Errorf("snapshot %s: %w: deleted meanwhile", of, ErrNotFound)
		}
		// Both in one frame: a volume without its head would be one of zeroes.
		return []refs.Record{
			{
				Op: refs.OpVolume, ID: id, Name: refs.ScratchName(id), Size: v.ref.Size, BlockSize: v.ref.BlockSize, Verify: v.ref.Verify,
				Time: s.opts.Now().UTC(), Of: of,
			},
			{Op: refs.OpHead, ID: id, Root: sn.Root.String(), Logical: sn.Logical},
		}, nil
	}, func(ref *refs.Volume) *volume {
		w := newVolume(s, ref, newBase(s, *r))
		w.baseData = sn.Logical
		return w
	})
	if err != nil {
		return VolumeInfo{}, err
	}
	return s.catalog.info(w), nil
}

// ScratchVolumes lists the scratch volumes, in order of name.
func (s *Store) ScratchVolumes() []VolumeInfo { return s.catalog.infos(true) }
