package objstore

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"varve/objstore/internal/refs"
)

// A scratch volume is a throwaway layer over a snapshot: a file system that has to replay its
// journal finds a disk to write to, and the snapshot stays as it is. It is a clone (clone.go), so
// that every version of varve opens a store that has one, serves its device, and keeps what the root
// refers to. A scratch volume is recognised by its name, which is made of its own ID. No other
// volume can have such a name: the ID of a volume is chosen at random when the volume is created,
// and RenameVolume refuses it.
//
// The creator of a scratch volume deletes it when its device is gone, or finds it in ScratchVolumes
// later.

// CreateScratch creates a scratch volume over a snapshot, once the snapshot has settled. Volumes,
// Roots and the count of Stat leave it out; every method that takes the name of a volume accepts
// its name, but for CreateSnapshot, CloneVolume, RollbackVolume and RenameVolume.
func (s *Store) CreateScratch(ctx context.Context, volume, snap string) (VolumeInfo, error) {
	of := volume + "@" + snap
	v, err := s.catalog.find(volume)
	if err != nil {
		return VolumeInfo{}, err
	}
	if v.ref.Scratch() {
		return VolumeInfo{}, fmt.Errorf("snapshot %s: %w: it is of a scratch volume", of, ErrInvalid)
	}
	id := uuid.New()
	return s.cloneSnapshot(ctx, volume, snap, refs.Record{
		Op: refs.OpVolume, ID: id, Name: refs.ScratchName(id), BlockSize: v.BlockSize(), Verify: v.verify.Load(), Of: of,
	})
}

// ScratchVolumes lists the scratch volumes, in order of name.
func (s *Store) ScratchVolumes() []VolumeInfo { return s.catalog.infos(true) }
