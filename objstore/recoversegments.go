package objstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// openSegments opens every segment file.
func (s *Store) openSegments(ctx context.Context) error {
	names, err := s.fs.List(segment.Dir)
	if err != nil {
		return err
	}
	logs := map[uint32]bool{}
	var files []*segmentFile
	for _, n := range names {
		switch id, isLog, ok := segment.ParseName(n); {
		case segment.IsDraft(n):
			if err := disk.RemoveLeftover(s.fs, s.log, segment.Dir+"/"+n); err != nil {
				return err
			}
		case !ok:
			s.stray(segment.Dir + "/" + n)
		case s.catalog.refs.Retired[id]:
			if err := disk.RemoveLeftover(s.fs, s.log, segment.Dir+"/"+n); err != nil {
				return err
			}
		case isLog:
			logs[id] = true
		default:
			files = append(files, &segmentFile{id: id})
		}
	}
	err = disk.ParallelContext(ctx, files, func(f *segmentFile) error { // each has its own error
		f.seg, f.err = segment.Open(ctx, s.fs, f.id, s.sb.ID, logs[f.id])
		if disk.Unreadable(f.err) { // a second read may succeed
			f.seg, f.err = segment.Open(ctx, s.fs, f.id, s.sb.ID, logs[f.id])
		}
		return nil
	})
	if err != nil {
		closeSegments(files)
		return err
	}
	if err := s.takeSegments(files, logs); err != nil {
		return err
	}
	// The process that created an object log may have been killed before it could sync its name.
	if err := s.fs.SyncDir(segment.Dir); err != nil {
		return err
	}
	s.catalog.refs.Unlinked(slices.Collect(maps.Keys(s.catalog.refs.Retired)))
	return nil
}

// segmentFile is a segment that was opened, or the reason why it was not.
type segmentFile struct {
	id  uint32
	seg *segment.File
	err error
}

// closeSegments closes those that were opened.
func closeSegments(files []*segmentFile) {
	for _, f := range files {
		if f.seg != nil {
			_ = f.seg.Close() // nothing was written
		}
	}
}

// takeSegments adds the segments that were opened to the store's table. logs are the IDs of
// segments that have an object log.
func (s *Store) takeSegments(files []*segmentFile, logs map[uint32]bool) error {
	unreadable := map[uint32]bool{}
	var first error
	for _, f := range files {
		id, g, err := f.id, f.seg, f.err
		if disk.Unreadable(err) {
			s.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: err})
			unreadable[id] = true
			delete(logs, id)
			continue
		}
		if errors.Is(err, segment.ErrUnfinished) {
			// Power was cut before the segment's header was durable: nothing refers to it.
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
			continue // the other segments are closed with the store
		}
		s.validateObjectLog(g)
		if d := g.Repaired(); d != nil {
			s.repaired(d)
		}
		if err := g.Damage(); err != nil {
			s.lost(err)
		}
		delete(logs, id)
		s.segments.Add(g)
		chunks, others := g.Stored()
		s.stored.add(chunks, others)
		s.catalog.usedSegment(id)
	}
	if first != nil {
		return first
	}
	for id := range s.catalog.refs.ObjectLogs {
		if s.segments.Get(id) == nil && !logs[id] && !unreadable[id] {
			s.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: errors.New("it is missing, and refs know of objects in it")})
		}
	}
	for id := range logs {
		s.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: errors.New("its object log is there, the segment is not")})
	}
	return nil
}

// validateObjectLog compares the length of an object log with what refs know of it.
func (s *Store) validateObjectLog(g *segment.File) {
	want := s.catalog.refs.ObjectLogs[g.ID]
	if want == 0 || g.Damaged() {
		return
	}
	g.SetLogged(want) // the file of refs says so until it is compacted
	if g.Sealed() {
		delete(s.catalog.refs.ObjectLogs, g.ID)
		return
	}
	bad := &CorruptError{File: segment.ObjectLogName(g.ID), Object: "log"}
	switch n := g.ObjectLogSize(); {
	case n == 0:
		bad.Err = errors.New("it is missing, and refs know of objects in it")
	case n < want:
		bad.Offset, bad.Err = n, fmt.Errorf("it ends there, and had %d bytes", want)
	default:
		return
	}
	g.SetDamage(bad)
}

// sweepSegments ends the segments that an earlier process left open: nothing is appended to them
// any more.
func (s *Store) sweepSegments(ctx context.Context) error {
	for _, g := range s.segments.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if g.Outlived() {
			if err := s.dropOutlived(g); err != nil {
				return err
			}
		}
	}
	left := slices.DeleteFunc(s.segments.All(), func(g *segment.File) bool {
		return g.Sealed() || g.Unsettled.Load() > 0 || s.sealer.holds(g)
	})
	if err := disk.ParallelContext(ctx, left, s.sweepSegment); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverSwept)
	return nil
}

// dropOutlived removes the object log of a segment whose footer names all that is in it.
func (s *Store) dropOutlived(g *segment.File) error {
	// A process that was killed may have written the footer, and not synced it; or its sync has failed.
	if err := g.Reseal(s.sb.ID); err != nil {
		s.log.Warn("an object log that is not needed was not removed", "file", segment.ObjectLogName(g.ID), "error", err)
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
		return s.sealer.seal(g)
	}
	// Before the segment is removed: an object log without a segment is damage.
	if err := g.RemoveObjectLog(s.fs); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverEmptied)
	return s.sealer.remove(g)
}
