package refs

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

// State is what the log describes. It has no lock: its owner guards it.
type State struct {
	Volumes  map[string]*Volume
	ByID     map[uuid.UUID]*Volume
	Roots    Roots
	Segments uint64 // segment IDs below this may have been used
	MaxSize  int64  // bytes that the store may take on disk; 0: no maximum

	// ObjectLogs says how long the object logs of segments are at least, in bytes, until the
	// segments are sealed.
	ObjectLogs map[uint32]int64
	// Retired are segments without objects whose files may still be there.
	Retired map[uint32]bool

	chunkSize int
	marks     map[string]*Volume // by Volume.Mark, if that is not empty
}

// NewState returns the state of an empty log, of a store with chunks of that size in bytes.
func NewState(chunkSize int) *State {
	return &State{
		Volumes: map[string]*Volume{}, ByID: map[uuid.UUID]*Volume{}, Roots: Roots{}, Segments: 1, ObjectLogs: map[uint32]int64{},
		Retired: map[uint32]bool{}, chunkSize: chunkSize, marks: map[string]*Volume{},
	}
}

// ApplyFrame lets the records of a frame take effect.
func (s *State) ApplyFrame(payload []byte) error {
	var recs []Record
	if err := json.Unmarshal(payload, &recs); err != nil {
		return err
	}
	for i := range recs {
		if err := s.Apply(&recs[i]); err != nil {
			return fmt.Errorf("%s record: %w", recs[i].Op, err)
		}
	}
	return nil
}

// Apply lets a record take effect. After an error the state is as it was, but for ObjectLogs.
func (s *State) Apply(rec *Record) error {
	var root merkle.Hash
	if rec.Root != "" {
		var err error
		if root, err = merkle.ParseHash(rec.Root); err != nil {
			return err
		}
	}
	for id, n := range rec.ObjectLogs {
		s.ObjectLogs[id] = max(s.ObjectLogs[id], n)
	}
	switch rec.Op {
	case OpSegments:
		s.Segments = max(s.Segments, rec.Gen)
		return nil
	case OpMaxSize:
		if rec.Size < 0 {
			return fmt.Errorf("%w: size %d", disk.ErrInvalid, rec.Size)
		}
		s.MaxSize = rec.Size
		return nil
	case OpRetired:
		for _, id := range rec.Retired {
			delete(s.ObjectLogs, id)
			s.Retired[id] = true
		}
		return nil
	case OpVolume:
		return s.addVolume(rec)
	default:
		v := s.ByID[rec.ID]
		if v == nil {
			return fmt.Errorf("volume %v: %w", rec.ID, ErrNotFound)
		}
		return s.applyTo(v, rec, root)
	}
}

// applyTo lets a record of a volume take effect.
func (s *State) applyTo(v *Volume, rec *Record, root merkle.Hash) error {
	switch rec.Op {
	case OpVolumeDelete:
		s.deleteVolume(v)
	case OpHead:
		return s.setHead(v, rec, root, v.Size)
	case OpResize:
		if err := CheckSize(rec.Size, v.BlockSize); err != nil {
			return err
		}
		return s.setHead(v, rec, root, rec.Size)
	case OpVerify:
		v.Verify = rec.Verify
	case OpLimits:
		if rec.Quota < 0 || rec.Reserve < 0 {
			return fmt.Errorf("%w: quota %d, reservation %d", disk.ErrInvalid, rec.Quota, rec.Reserve)
		}
		v.Quota, v.Reserve = rec.Quota, rec.Reserve
	case OpPolicy:
		return v.setPolicy(rec.Policy)
	case OpAutomatic:
		sn := v.Snapshots[rec.Name]
		if sn == nil {
			return fmt.Errorf("snapshot %s: %w", rec.Name, ErrNotFound)
		}
		sn.Automatic = rec.Time
	case OpSnapshot:
		return s.addSnapshot(v, rec, root)
	case OpSnapshotDelete:
		return s.deleteSnapshot(v, rec.Name)
	case OpRename:
		return s.rename(v, rec.To)
	case OpSnapshotRename:
		return s.renameSnapshot(v, rec.Name, rec.To)
	default:
		return errors.New("unknown operation")
	}
	return nil
}

// Unlinked forgets segments that were retired, and whose files are gone, durably.
func (s *State) Unlinked(ids []uint32) {
	for _, id := range ids {
		delete(s.Retired, id)
	}
}

func (s *State) addVolume(rec *Record) error {
	if s.ByID[rec.ID] != nil || s.Volumes[rec.Name] != nil {
		return ErrExists
	}
	if err := CheckBlockSize(rec.BlockSize); err != nil {
		return err
	}
	if rec.Size <= 0 || rec.Size > disk.MaxVolumeSize {
		return fmt.Errorf("%w: size %d", disk.ErrInvalid, rec.Size)
	}
	v := &Volume{
		ID: rec.ID, Name: rec.Name, Size: rec.Size, BlockSize: rec.BlockSize, Created: rec.Time,
		Verify: rec.Verify, Of: rec.Of, Mark: rec.Mark, Snapshots: map[string]*Snapshot{},
	}
	s.ByID[v.ID], s.Volumes[v.Name] = v, v
	if v.Mark != "" {
		s.marks[v.Mark] = v
	}
	s.Roots.add(s.RootOf(v), v, v.Size, 0)
	return nil
}

// setHead sets the root that a volume has settled to, and its size.
func (s *State) setHead(v *Volume, rec *Record, root merkle.Hash, size int64) error {
	if rec.Gen < v.Gen {
		return errors.New("generation goes back")
	}
	s.Roots.remove(s.RootOf(v), v)
	v.Size, v.Gen, v.Root, v.Logical, v.Settled = size, rec.Gen, root, rec.Logical, rec.Time
	s.Roots.add(s.RootOf(v), v, v.Size, v.Logical)
	return nil
}

func (s *State) deleteVolume(v *Volume) {
	delete(s.ByID, v.ID)
	delete(s.Volumes, v.Name)
	if v.Mark != "" {
		delete(s.marks, v.Mark)
	}
	s.Roots.remove(s.RootOf(v), v)
	for _, sn := range v.Order {
		if sn.Settled {
			s.Roots.remove(sn.Root, v)
		}
	}
}

// addSnapshot adds a snapshot, or notes that one has settled.
func (s *State) addSnapshot(v *Volume, rec *Record, root merkle.Hash) error {
	sn := v.Snapshots[rec.Name]
	if sn == nil {
		if rec.Size < 0 || rec.Size > disk.MaxVolumeSize {
			return fmt.Errorf("%w: size %d", disk.ErrInvalid, rec.Size)
		}
		sn = &Snapshot{Name: rec.Name, Created: rec.Time, Gen: rec.Gen, Size: cmp.Or(rec.Size, v.Size)}
		v.add(sn)
	}
	if rec.Root != "" && !sn.Settled {
		sn.Root, sn.Logical, sn.Settled = root, rec.Logical, true
		v.Unsettled = without(v.Unsettled, sn)
		s.Roots.add(root, v, sn.Size, sn.Logical)
	}
	return nil
}

func (s *State) deleteSnapshot(v *Volume, name string) error {
	sn := v.Snapshots[name]
	if sn == nil {
		return ErrNotFound
	}
	if sn.Settled {
		s.Roots.remove(sn.Root, v)
	}
	delete(v.Snapshots, name)
	v.Order, v.Unsettled = without(v.Order, sn), without(v.Unsettled, sn)
	return nil
}

// RootOf is the root that a volume has settled to: that of zeroes if nothing has.
func (s *State) RootOf(v *Volume) merkle.Hash {
	if v.Root.IsZero() {
		root := merkle.EmptyRoot(v.Size, s.chunkSize)
		return root.Hash()
	}
	return v.Root
}

// Sorted returns the volumes in order of name.
func (s *State) Sorted() []*Volume {
	out := make([]*Volume, 0, len(s.Volumes))
	for _, v := range s.Volumes {
		out = append(out, v)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// Records yields the records of the shortest log that leads to the same state.
func (s *State) Records(yield func(Record) bool) {
	ok := yield(Record{Op: OpSegments, Gen: s.Segments, ObjectLogs: s.ObjectLogs})
	if ok && s.MaxSize > 0 {
		ok = yield(Record{Op: OpMaxSize, Size: s.MaxSize})
	}
	if ok && len(s.Retired) > 0 {
		ok = yield(Record{Op: OpRetired, Retired: slices.Sorted(maps.Keys(s.Retired))})
	}
	for _, v := range s.Sorted() {
		ok = ok && yield(Record{
			Op: OpVolume, ID: v.ID, Name: v.Name, Size: v.Size, BlockSize: v.BlockSize, Verify: v.Verify, Time: v.Created, Of: v.Of, Mark: v.Mark,
		}) && yield(Record{Op: OpHead, ID: v.ID, Gen: v.Gen, Root: v.Root.String(), Logical: v.Logical, Time: v.Settled})
		if v.Quota > 0 || v.Reserve > 0 {
			ok = ok && yield(Record{Op: OpLimits, ID: v.ID, Quota: v.Quota, Reserve: v.Reserve})
		}
		if ok && v.Policy != (RetentionPolicy{}) {
			policy := v.Policy
			ok = yield(Record{Op: OpPolicy, ID: v.ID, Policy: &policy})
		}
		for _, sn := range v.Order {
			rec := Record{Op: OpSnapshot, ID: v.ID, Name: sn.Name, Gen: sn.Gen, Time: sn.Created}
			if sn.Size != v.Size {
				rec.Size = sn.Size
			}
			if sn.Settled {
				rec.Root, rec.Logical = sn.Root.String(), sn.Logical
			}
			ok = ok && yield(rec)
			if !sn.Automatic.IsZero() {
				ok = ok && yield(Record{Op: OpAutomatic, ID: v.ID, Name: sn.Name, Time: sn.Automatic})
			}
		}
	}
}
