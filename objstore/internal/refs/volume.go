package refs

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

// Volume is what refs know of a volume. ID, BlockSize and Created never change.
type Volume struct {
	ID        uuid.UUID
	Name      string
	Size      int64 // bytes, of the device and of Root
	BlockSize int   // bytes, of the device
	Created   time.Time
	Of        string // VOLUME@SNAPSHOT under a scratch volume, if it is known
	Mark      string // of MarkName, if that is not Name

	Gen     uint64      // the generation up to which it has settled
	Root    merkle.Hash // zero: nothing has settled yet, all zeroes
	Settled time.Time   // when that was; zero: never, or unknown
	Logical int64       // bytes of the root that are not holes
	Verify  bool        // settled chunks are verified as they are read
	Quota   int64       // bytes that it may refer to; 0: no limit
	Reserve int64       // bytes that are kept for it; 0: none
	Policy  RetentionPolicy

	Snapshots map[string]*Snapshot
	Order     []*Snapshot // the same in order of creation: by generation, and then as they were named
	Unsettled []*Snapshot // those of Order that have not settled
}

// Snapshot is what refs know of a snapshot. Created, Gen and Size never change.
type Snapshot struct {
	Name    string
	Created time.Time
	Gen     uint64 // the generation up to which it shows the volume
	Size    int64  // bytes, of the volume at that time
	Settled bool
	Root    merkle.Hash // once settled
	Logical int64       // bytes of the root that are not holes

	Automatic time.Time // when the policy made it, by the policy clock; zero: a user asked for it
}

// Scratch reports whether the volume is a scratch volume.
func (v *Volume) Scratch() bool { return v.Name == ScratchName(v.ID) }

// CheckSize returns ErrInvalid unless n bytes is a size that a device with that block size may
// have.
func CheckSize(n int64, blockSize int) error {
	if n <= 0 || n > disk.MaxVolumeSize || n%int64(blockSize) != 0 {
		return fmt.Errorf("size %d bytes: %w: want a multiple of the block size %d, at most %d", n, disk.ErrInvalid, blockSize, int64(disk.MaxVolumeSize))
	}
	return nil
}

// CheckBlockSize returns ErrInvalid unless n bytes is a block size that a device may have.
func CheckBlockSize(n int) error {
	if n != 512 && n != 4096 {
		return fmt.Errorf("block size %d bytes: %w: want 512 or 4096", n, disk.ErrInvalid)
	}
	return nil
}

// add adds a snapshot that has not settled.
func (v *Volume) add(s *Snapshot) {
	v.Snapshots[s.Name] = s
	v.Order = slices.Insert(v.Order, endOfGen(v.Order, s.Gen), s)
	v.Unsettled = slices.Insert(v.Unsettled, endOfGen(v.Unsettled, s.Gen), s)
}

// endOfGen is where the snapshots of a generation end in a list that is in order of generation.
func endOfGen(list []*Snapshot, gen uint64) int {
	return sort.Search(len(list), func(i int) bool { return list[i].Gen > gen })
}

// without removes a snapshot from a list that is in order of generation.
func without(list []*Snapshot, s *Snapshot) []*Snapshot {
	first := sort.Search(len(list), func(i int) bool { return list[i].Gen >= s.Gen })
	if i := slices.Index(list[first:], s); i >= 0 {
		return slices.Delete(list, first+i, first+i+1)
	}
	return list
}
