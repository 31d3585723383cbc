package objstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/merkle"
)

// CreateVolume makes a volume of zeroes.
func (s *Store) CreateVolume(_ context.Context, name string, o VolumeOptions) (VolumeInfo, error) {
	if o.BlockSize == 0 {
		o.BlockSize = SectorSize
	}
	if err := CheckName("volume", name); err != nil {
		return VolumeInfo{}, err
	}
	if err := checkBlockSize(o.BlockSize); err != nil {
		return VolumeInfo{}, err
	}
	if o.Size < int64(o.BlockSize) || o.Size > MaxVolumeSize || o.Size%int64(o.BlockSize) != 0 {
		return VolumeInfo{}, fmt.Errorf("volume size %d bytes: %w: want a multiple of the block size %d, at most %d", o.Size, ErrInvalid, o.BlockSize, int64(MaxVolumeSize))
	}
	rec := refRecord{Op: opVolume, ID: uuid.New(), Name: name, Size: o.Size, BlockSize: o.BlockSize, Verify: o.Verify, Time: s.opts.Now().UTC()}
	var v *volume
	err := s.catalog.update(func() ([]refRecord, error) {
		if s.catalog.refs.volumes[name] != nil {
			return nil, fmt.Errorf("volume %s: %w", name, ErrExists)
		}
		return []refRecord{rec}, nil
	}, func() {
		v = s.addVolume(rec.ID, s.emptyRoot(o.Size))
	})
	if err != nil {
		return VolumeInfo{}, err
	}
	return s.infoOf(v), nil
}

// addVolume adds a volume that refs name now, with a root. Under s.catalog.mu.
func (s *Store) addVolume(id uuid.UUID, root merkle.Root) *volume {
	failpoint.Here(failpoint.VolumeCreated)
	v := newVolume(s, s.catalog.refs.byID[id], newBase(s, root))
	s.catalog.volumes[id] = v
	return v
}

// volume finds a volume by name. Under s.catalog.mu.
func (s *Store) volume(name string) (*volume, error) {
	if ref := s.catalog.refs.volumes[name]; ref != nil {
		return s.catalog.volumes[ref.id], nil
	}
	return nil, fmt.Errorf("volume %s: %w", name, ErrNotFound)
}

// DeleteVolume removes a volume that nobody has open and that has no snapshots.
func (s *Store) DeleteVolume(ctx context.Context, name string) error {
	var v *volume
	err := s.catalog.update(func() (_ []refRecord, err error) {
		if v, err = s.volume(name); err == nil {
			err = s.mayDelete(v)
		}
		if err != nil {
			v = nil
			return nil, err
		}
		v.deleting = true // from here on nobody opens it
		return []refRecord{{Op: opVolumeDelete, ID: v.ref.id}}, nil
	}, func() {
		failpoint.Here(failpoint.VolumeDeleted)
		delete(s.catalog.volumes, v.ref.id)
		s.lookForHold()
	})
	if err != nil && v != nil {
		s.catalog.mu.Lock()
		v.deleting = false
		s.catalog.mu.Unlock()
	}
	if err != nil {
		return err
	}
	return s.dropVolume(ctx, v)
}

// mayDelete says what keeps a volume from being deleted. Under s.catalog.mu.
func (s *Store) mayDelete(v *volume) error {
	if len(v.users) > 0 {
		return fmt.Errorf("volume %s: %w by %s", v.ref.name, ErrInUse, strings.Join(v.users, ", "))
	}
	if n := len(v.ref.snaps); n > 0 {
		has := "a snapshot; delete it first"
		if n > 1 {
			has = fmt.Sprintf("%d snapshots; delete them first", n)
		}
		return fmt.Errorf("volume %s: %w: it has %s", v.ref.name, ErrInUse, has)
	}
	for w := range s.catalog.views {
		if w.v == v && w.Root() == "" {
			return fmt.Errorf("volume %s: %w: a snapshot of it that has not settled is open", v.ref.name, ErrInUse)
		}
	}
	return nil
}

// dropVolume gives back what a deleted volume had not settled.
func (s *Store) dropVolume(ctx context.Context, v *volume) error {
	// A settling that is under way reads what is dropped here, and would record it as objects: it must end first.
	v.dropped.Store(true)
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	v.commitMu.Lock()
	v.mu.Lock()
	layers, pinned := v.layers, v.replacePin()
	v.layers, v.dirty, v.writable, v.closed, v.tail = nil, nil, false, true, 0
	if v.log != nil {
		v.log.full = true
	}
	v.unstick()
	for _, l := range layers {
		s.pay(l)
	}
	v.room.Broadcast()
	v.base.drop()
	v.mu.Unlock()
	v.commitMu.Unlock()
	for _, l := range layers {
		l.journal.close()
	}
	select {
	case <-pinned.done:
	case <-ctx.Done():
		return fmt.Errorf("volume %s is deleted, but its room is given back only when the store opens again: %w", v.ref.name, ctx.Err())
	case <-s.ctx.Done():
		return nil // the next opening does it
	}
	if d := v.damage.Load(); d != nil {
		for _, name := range d.journals {
			if err := s.removeJournal(name); err != nil {
				return err
			}
		}
	}
	touched := map[*segment]bool{}
	if v.log != nil {
		touched[v.log] = true
	}
	for _, l := range layers {
		if err := s.fs.Remove(l.journal.name); err != nil {
			return fmt.Errorf("remove journal: %w", err)
		}
		failpoint.Here(failpoint.VolumeDropped)
		for _, h := range mergeSlots(l.handed) {
			g := s.segments.get(h.seg)
			if g == nil {
				continue
			}
			touched[g] = true
			g.mu.Lock()
			objs := g.sorted()
			g.mu.Unlock()
			s.punchBetween(g, h.from, h.to, objs)
			g.unsettled.Add(h.from - h.to)
		}
	}
	for g := range touched {
		if err := s.retireOrSeal(v, g); err != nil {
			return err
		}
	}
	return nil
}

// OpenVolume opens a volume for reading and writing. user says who has it ("ublk /dev/ublkb0", "fuse"), for
// the lists. Close it when done.
func (s *Store) OpenVolume(name, user string) (*Volume, error) {
	s.catalog.mu.Lock()
	v, err := s.volume(name)
	s.catalog.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if v.damageError() != nil {
		v.settleMu.Lock()
		_, err = s.lookAgain(v)
		v.settleMu.Unlock()
	}
	s.catalog.mu.Lock()
	if err == nil {
		err = v.damageError()
	}
	if err == nil && s.catalog.volumes[v.ref.id] != v {
		err = fmt.Errorf("volume %s: %w", name, ErrNotFound)
	}
	if err == nil && v.deleting {
		err = fmt.Errorf("volume %s: %w: it is being deleted", name, ErrInUse)
	}
	if err == nil {
		v.users = append(v.users, user)
	}
	s.catalog.mu.Unlock()
	if err != nil {
		return nil, err
	}
	// A full disk has no room for a journal, but what is in the volume can be read.
	if err := v.activate(); err != nil && !errors.Is(err, ErrNoSpace) {
		s.catalog.mu.Lock()
		v.users = slices.Delete(v.users, slices.Index(v.users, user), slices.Index(v.users, user)+1)
		s.catalog.mu.Unlock()
		return nil, err
	}
	return &Volume{volume: v, user: user}, nil
}

// reclaimPatience is how long a snapshot waits for room to be given back.
const reclaimPatience = time.Second

// WaitSnapshot returns when the snapshot has settled and its root is durable.
func (s *Store) WaitSnapshot(ctx context.Context, volume, snap string) (SnapshotInfo, error) {
	s.catalog.mu.Lock()
	v, sn, err := s.snapshot(volume, snap)
	s.catalog.mu.Unlock()
	if err != nil {
		return SnapshotInfo{}, err
	}
	if err := s.waitSettled(ctx, v, sn.gen); err != nil {
		return SnapshotInfo{}, err
	}
	// The figures of stat are right after it as a rule; a reader that takes long is not waited for.
	brief, cancel := context.WithTimeout(ctx, reclaimPatience)
	_ = s.waitReclaimed(brief, v)
	cancel()
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	if !sn.settled {
		return SnapshotInfo{}, fmt.Errorf("snapshot %s@%s: %w: deleted meanwhile", volume, snap, ErrNotFound)
	}
	return snapInfo(v.ref, sn), nil
}

// snapshot finds a snapshot by its names. Under s.catalog.mu.
func (s *Store) snapshot(volume, snap string) (*volume, *snapRef, error) {
	v, err := s.volume(volume)
	if err != nil {
		return nil, nil, err
	}
	sn := v.ref.snaps[snap]
	if sn == nil {
		return nil, nil, fmt.Errorf("snapshot %s@%s: %w", volume, snap, ErrNotFound)
	}
	return v, sn, nil
}

// DeleteSnapshot removes the name; views that are open stay.
func (s *Store) DeleteSnapshot(_ context.Context, volume, snap string) error {
	var helped func() // its settling may have failed for what the snapshot needs
	err := s.catalog.update(func() ([]refRecord, error) {
		v, _, err := s.snapshot(volume, snap)
		if err != nil {
			return nil, err
		}
		helped = v.mayHelp
		return []refRecord{{Op: opSnapDelete, ID: v.ref.id, Name: snap}}, nil
	}, nil)
	if err == nil {
		failpoint.Here(failpoint.SnapshotDeleted)
		helped()
	}
	return err
}

// OpenSnapshot opens a snapshot for reading, settled or not.
func (s *Store) OpenSnapshot(volume, snap string) (*View, error) {
	s.catalog.mu.Lock()
	v, sn, err := s.snapshot(volume, snap)
	if err != nil {
		s.catalog.mu.Unlock()
		return nil, err
	}
	if err := v.damageError(); err != nil && !sn.settled {
		s.catalog.mu.Unlock()
		return nil, err
	}
	if !sn.settled {
		w := &View{s: s, size: v.ref.size, v: v, gen: sn.gen, of: v}
		s.catalog.views[w] = struct{}{}
		s.catalog.mu.Unlock()
		return w, nil
	}
	root, size := sn.root, v.ref.size
	s.catalog.mu.Unlock()
	return s.openRoot(root, size, v)
}

// openRoot opens a root for reading; of is the volume that it belongs to, or nil.
func (s *Store) openRoot(id merkle.Hash, size int64, of *volume) (*View, error) {
	r, err := s.readRoot(id, size)
	if err != nil {
		return nil, err
	}
	w := &View{s: s, size: r.Size, base: newBase(s, *r), of: of}
	s.catalog.mu.Lock()
	s.catalog.views[w] = struct{}{}
	s.catalog.mu.Unlock()
	return w, nil
}

// Snapshots of one volume, or of all if volume is empty, by volume and then in order of creation.
func (s *Store) Snapshots(volume string) ([]SnapshotInfo, error) {
	type entry struct {
		ref  *volumeRef
		snap snapRef
	}
	var all []entry
	s.catalog.mu.Lock() // for the copies alone: there may be very many
	refs := s.catalog.refs.sorted()
	if volume != "" {
		v, err := s.volume(volume)
		if err != nil {
			s.catalog.mu.Unlock()
			return nil, err
		}
		refs = []*volumeRef{v.ref}
	}
	for _, ref := range refs {
		for _, sn := range ref.order {
			all = append(all, entry{ref, *sn})
		}
	}
	s.catalog.mu.Unlock()
	out := make([]SnapshotInfo, len(all))
	for i := range all {
		out[i] = snapInfo(all[i].ref, &all[i].snap)
	}
	return out, nil
}

// SnapshotInfo describes one snapshot.
func (s *Store) SnapshotInfo(volume, snap string) (SnapshotInfo, error) {
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	v, sn, err := s.snapshot(volume, snap)
	if err != nil {
		return SnapshotInfo{}, err
	}
	return snapInfo(v.ref, sn), nil
}

// snapInfo describes a snapshot; of ref it reads what doesn't change.
func snapInfo(ref *volumeRef, sn *snapRef) SnapshotInfo {
	i := SnapshotInfo{Volume: ref.name, Name: sn.name, Created: sn.created, Size: ref.size}
	if sn.settled {
		i.Root, i.Logical = sn.root.String(), sn.logical
	}
	return i
}
