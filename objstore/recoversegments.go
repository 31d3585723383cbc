package objstore

import (
	"errors"
	"fmt"
	"slices"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// openSegments opens every segment file.
func (s *Store) openSegments() error {
	names, err := s.fs.List(segment.Dir)
	if err != nil {
		return err
	}
	dirs := map[uint32]bool{}
	var files []*segmentFile
	for _, n := range names {
		switch id, dir, ok := segment.ParseName(n); {
		case !ok:
			s.stray(segment.Dir + "/" + n)
		case dir:
			dirs[id] = true
		default:
			files = append(files, &segmentFile{id: id})
		}
	}
	_ = disk.Parallel(files, func(f *segmentFile) error { // each has its own error
		f.seg, f.err = segment.Open(s.fs, f.id, s.sb.ID, dirs[f.id])
		if disk.Unreadable(f.err) { // it may be better the second time
			f.seg, f.err = segment.Open(s.fs, f.id, s.sb.ID, dirs[f.id])
		}
		return nil
	})
	if err := s.takeSegments(files, dirs); err != nil {
		return err
	}
	// The process that made a directory may have been killed before it could sync its name.
	return s.fs.SyncDir(segment.Dir)
}

// segmentFile is a file of segmentDir that was opened, or why it was not.
type segmentFile struct {
	id  uint32
	seg *segment.File
	err error
}

// takeSegments takes over what was opened. dirs are the segments that have an object log.
func (s *Store) takeSegments(files []*segmentFile, dirs map[uint32]bool) error {
	closed := map[uint32]bool{} // those that their disk doesn't let us open
	var first error
	for _, f := range files {
		id, g, err := f.id, f.seg, f.err
		if disk.Unreadable(err) {
			s.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: err})
			closed[id] = true
			delete(dirs, id)
			continue
		}
		if errors.Is(err, segment.ErrUnfinished) {
			// A power cut before the segment's header was durable: nothing refers to it.
			s.log.Info("an unfinished segment is removed", "segment", id)
			err = s.fs.Remove(segment.Name(id))
			if first == nil {
				first = err
			}
			continue
		}
		if err != nil {
			if first == nil {
				first = err
			}
			continue // the others are closed with the store
		}
		s.validateObjectLog(g)
		if d := g.Repaired(); d != nil {
			s.mended(d)
		}
		if err := g.Damage(); err != nil {
			s.lost(err)
		}
		delete(dirs, id)
		s.segments.Add(g)
		chunks, others := g.Stored()
		s.chunkBytes.Add(chunks)
		s.nodeBytes.Add(others)
		s.catalog.usedSegment(id)
	}
	if first != nil {
		return first
	}
	for id := range s.catalog.refs.ObjectLogs {
		if s.segments.Get(id) == nil && !dirs[id] && !closed[id] {
			s.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: errors.New("it is not there, and refs know of objects in it")})
		}
	}
	for id := range dirs {
		s.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: errors.New("its object log is there, the segment is not")})
	}
	return nil
}

// validateObjectLog holds an object log against what refs know of it.
func (s *Store) validateObjectLog(g *segment.File) {
	want := s.catalog.refs.ObjectLogs[g.ID]
	if want == 0 || g.Damaged() {
		return
	}
	if g.Sealed() {
		delete(s.catalog.refs.ObjectLogs, g.ID)
		return
	}
	bad := &CorruptError{File: segment.ObjectLogName(g.ID), Object: "log"}
	switch n := g.ObjectLogSize(); {
	case n == 0:
		bad.Err = errors.New("it is not there, and refs know of objects in it")
	case n < want:
		bad.Offset, bad.Err = n, fmt.Errorf("it ends there, and had %d bytes", want)
	default:
		return
	}
	g.SetDamage(bad)
}

// sweepSegments ends the segments that a former process left open: nothing is appended to them any more.
func (s *Store) sweepSegments() error {
	for _, g := range s.segments.All() {
		if g.Outlived() {
			if err := s.dropOutlived(g); err != nil {
				return err
			}
		}
	}
	left := slices.DeleteFunc(s.segments.All(), func(g *segment.File) bool {
		return g.Sealed() || g.Unsettled.Load() > 0 || s.holds(g)
	})
	if err := disk.Parallel(left, s.sweepSegment); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverSwept)
	return nil
}

// dropOutlived removes the object log of a segment whose footer names all that is in it.
func (s *Store) dropOutlived(g *segment.File) error {
	// A process that was killed may have written the footer, and not synced it.
	if err := g.Data.Datasync(); err != nil {
		s.log.Warn("an object log that is not needed stays behind", "file", segment.ObjectLogName(g.ID), "error", err)
		return nil
	}
	if err := disk.RemoveLeftover(s.fs, s.log, segment.ObjectLogName(g.ID)); err != nil {
		return err
	}
	return s.fs.SyncDir(segment.Dir)
}

// sweepSegment seals a segment, or removes it if it holds nothing.
func (s *Store) sweepSegment(g *segment.File) error {
	if len(g.OpenObjects()) > 0 {
		return s.sealSegment(g)
	}
	// Before the segment goes: an object log without a segment is damage.
	if err := g.RemoveObjectLog(s.fs); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverEmptied)
	return s.retire(g)
}
