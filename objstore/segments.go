package objstore

import (
	"errors"
	"sync"
	"sync/atomic"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
)

// segmentTable finds a segment by its ID, without a lock.
type segmentTable struct {
	mu    sync.Mutex
	slots atomic.Pointer[[]atomic.Pointer[segment]]
}

func (t *segmentTable) get(id uint32) *segment {
	if s := t.slots.Load(); s != nil && int(id) < len(*s) {
		return (*s)[id].Load()
	}
	return nil
}

func (t *segmentTable) add(g *segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.slots.Load()
	if old == nil || int(g.id) >= len(*old) {
		grown := make([]atomic.Pointer[segment], disk.RoundUp(int64(g.id)+1, 1024)*5/4)
		if old != nil {
			for i := range *old {
				grown[i].Store((*old)[i].Load())
			}
		}
		t.slots.Store(&grown)
		old = &grown
	}
	(*old)[g.id].Store(g)
}

func (t *segmentTable) remove(id uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	(*t.slots.Load())[id].Store(nil)
}

// all gives the segments in order of ID.
func (t *segmentTable) all() []*segment {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*segment
	if s := t.slots.Load(); s != nil {
		for i := range *s {
			if g := (*s)[i].Load(); g != nil {
				out = append(out, g)
			}
		}
	}
	return out
}

// made is a new segment, or why there is none.
type made struct {
	seg *segment
	err error
}

// makeSegments keeps one empty segment at hand, so that a write seldom waits for a file to be made.
func (s *Store) makeSegments() {
	defer s.workers.Done()
	for {
		g, err := s.makeSegment()
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

func (s *Store) makeSegment() (*segment, error) {
	id, err := s.catalog.newSegmentID()
	if err != nil {
		return nil, err
	}
	g, err := createSegment(s.fs, id, s.opts.SegmentSize, s.sb.id)
	if err != nil {
		return nil, s.spaceError(err)
	}
	failpoint.Here(failpoint.SegmentMade)
	if err := s.fs.SyncDir(segmentDir); err != nil {
		g.file.Close()
		if disk.Transient(err) {
			return nil, errors.Join(err, s.fs.Remove(segmentName(id)))
		}
		return nil, s.fail(err)
	}
	s.segments.add(g)
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
func (s *Store) trySegment() *segment {
	s.startMaker()
	select {
	case m := <-s.spare:
		return m.seg // nil where it could not be made: takeSegment will say why
	default:
		return nil
	}
}

// takeSegment gives an empty segment.
func (s *Store) takeSegment() (*segment, error) {
	s.startMaker()
	select {
	case m := <-s.spare:
		if m.err == nil {
			return m.seg, nil
		}
		// What failed when the spare was made may have passed.
		return s.makeSegment()
	case <-s.ctx.Done():
		return nil, ErrClosed
	}
}

// giveSegmentBack removes a segment that was never used.
func (s *Store) giveSegmentBack(g *segment) {
	s.segments.remove(g.id)
	g.file.Close()
	if err := s.fs.Remove(segmentName(g.id)); err != nil {
		s.log.Warn("an empty segment stays behind", "segment", g.id, "error", err)
	}
}

// objectSlot finds room for an object that settling writes. Only the settler calls it.
func (s *Store) objectSlot(n int64) (*segment, int64, error) {
	slot := disk.RoundUp(n, disk.BlockSize)
	if s.objects != nil && s.objects.next+slot > s.objects.capacity {
		s.objects.full = true
		s.filled = append(s.filled, s.objects)
		s.objects = nil
	}
	if s.objects == nil {
		g, err := s.takeSegment()
		if err != nil {
			return nil, 0, err
		}
		s.objects = g
	}
	off := s.objects.next
	s.objects.next += slot
	return s.objects, off, nil
}

// sealFilled ends the object segments that are full; their objects are recorded, or given up.
func (s *Store) sealFilled() error {
	if err := s.writeError(); err != nil {
		return err
	}
	for len(s.filled) > 0 {
		g := s.filled[0]
		s.filled = s.filled[1:]
		end := s.sealSegment
		if g.dir == nil { // a settling that failed has filled it
			end = s.retire
		}
		if err := end(g); err != nil {
			return err
		}
	}
	return nil
}
