package objstore

import (
	"context"
	"errors"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// made is a new segment, or why there is none.
type made struct {
	seg *segment.File
	err error
}

// makeSegments keeps one empty segment at hand, so that a write seldom waits for a file to be made.
func (s *Store) makeSegments() {
	defer s.workers.Done()
	for {
		g, err := s.makeSegment(s.ctx)
		select {
		case s.spare <- made{g, err}:
		case <-s.ctx.Done():
			if g != nil {
				s.giveSegmentBack(g)
			}
			return
		}
	}
}

func (s *Store) makeSegment(ctx context.Context) (*segment.File, error) {
	id, err := s.catalog.newSegmentID(ctx)
	if err != nil {
		return nil, err
	}
	g, err := segment.Create(s.fs, id, s.opts.SegmentSize, s.sb.ID)
	if err != nil {
		return nil, s.spaceError(err)
	}
	failpoint.Here(failpoint.SegmentMade)
	if err := s.fs.SyncDir(segment.Dir); err != nil {
		g.Data.Close()
		if disk.Transient(err) {
			return nil, errors.Join(err, s.fs.Remove(segment.Name(id)))
		}
		return nil, s.fail(err)
	}
	s.index.entered(g.ID) // before it has objects
	s.segments.Add(g)
	return g, nil
}

// startMaker begins to keep a spare segment: a store that is only looked at makes none.
func (s *Store) startMaker() {
	s.maker.Do(func() {
		s.workers.Add(1)
		go s.makeSegments()
	})
}

// trySegment gives an empty segment if there is one at hand, or nil.
func (s *Store) trySegment() *segment.File {
	s.startMaker()
	select {
	case m := <-s.spare:
		return m.seg // nil where it could not be made: takeSegment will say why
	default:
		return nil
	}
}

// takeSegment returns an empty segment. It blocks until there is one.
func (s *Store) takeSegment(ctx context.Context) (*segment.File, error) {
	s.startMaker()
	select {
	case m := <-s.spare:
		if m.err == nil {
			return m.seg, nil
		}
		// What failed when the spare was made may have passed.
		return s.makeSegment(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ctx.Done():
		return nil, ErrClosed
	}
}

// giveSegmentBack removes a segment that was never used. It blocks.
func (s *Store) giveSegmentBack(g *segment.File) {
	s.segments.Remove(g.ID)
	s.index.forget(g.ID)
	g.Data.Close()
	if err := s.fs.Remove(segment.Name(g.ID)); err != nil {
		s.log.Warn("an empty segment stays behind", "segment", g.ID, "error", err)
	}
}
