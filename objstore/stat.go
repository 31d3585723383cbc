package objstore

import (
	"cmp"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

// Volumes in order of name, without scratch volumes.
func (s *Store) Volumes() []VolumeInfo { return s.listVolumes(false) }

// VolumeInfo describes one volume.
func (s *Store) VolumeInfo(name string) (VolumeInfo, error) {
	s.catalog.mu.Lock()
	v, err := s.volume(name)
	s.catalog.mu.Unlock()
	if err != nil {
		return VolumeInfo{}, err
	}
	return s.infoOf(v), nil
}

// infoOf describes a volume.
func (s *Store) infoOf(v *volume) VolumeInfo {
	v.mu.Lock()
	tail := v.tail
	v.mu.Unlock()
	damage := ""
	if d := v.damage.Load(); d != nil {
		damage = d.err.Error()
	}
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	return VolumeInfo{
		Name: v.ref.name, ID: v.ref.id.String(), Size: v.ref.size, BlockSize: v.ref.blockSize, Verify: v.ref.verify, Created: v.ref.created,
		Root: s.catalog.refs.rootOf(v.ref).String(), Logical: v.ref.logical, Tail: tail, Snapshots: len(v.ref.snaps),
		Users: append([]string{}, v.users...), Damage: damage, Of: v.ref.of,
	}
}

// countObject keeps the figures of what is stored.
func (s *Store) countObject(o object) {
	if o.kind == merkle.KindChunk {
		s.chunkBytes.Add(int64(o.length))
	} else {
		s.nodeBytes.Add(int64(o.length))
	}
}

// Stat gives the store in figures.
func (s *Store) Stat() (Stat, error) {
	st := Stat{
		UUID: *s.uuid.Load(), Path: s.dir, ChunkSize: s.sb.chunkSize,
		Stored: s.chunkBytes.Load(), OpenTime: s.took.Seconds(),
		PerVolume: s.Volumes(), Segments: len(s.segments.all()),
	}
	st.Volumes = len(st.PerVolume)
	for _, v := range st.PerVolume {
		st.Logical += v.Logical
		st.Tail += v.Tail
		st.Snapshots += v.Snapshots
	}
	if st.Stored > 0 {
		st.DedupRatio = float64(st.Logical) / float64(st.Stored)
	}
	if p := s.failed.Load(); p != nil {
		if st.ReadOnly = (*p).Error(); s.opts.LookOnly {
			st.ReadOnly = s.whyReadOnly()
		}
	}
	// A disk that does not say how much is on it must not keep the rest from being told.
	err := s.statSpace(&st)
	s.usage.forget()
	segs, other, uerr := s.usedParts()
	if err = cmp.Or(err, uerr); err != nil && !disk.Unreadable(err) {
		return st, err
	} else if err != nil {
		st.DiskError = err.Error()
	}
	st.Metadata = s.nodeBytes.Load() + other
	st.Used = segs + other
	return st, nil
}

// whyReadOnly says why nothing could be written to a store that is only looked at; "": it could.
func (s *Store) whyReadOnly() string {
	switch on, err := s.files.OnReadOnly(); {
	case err != nil:
		return err.Error()
	case on:
		return "its file system is read-only"
	}
	return ""
}
