package objstore

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// damagedSegments are those of which nobody knows all that is in them.
func (s *Store) damagedSegments() []*segment.File {
	return slices.DeleteFunc(s.segments.All(), func(g *segment.File) bool { return !g.Damaged() })
}

// damageBook is what a store knows of its damage.
type damageBook struct {
	hold atomic.Bool // a volume is damaged: no segment of a former process is given back

	badMu   sync.Mutex
	bad     map[segment.Location]bool // where an object can't be read, or (true) is another one and nobody is let read it
	repairs []*CorruptError           // damage that opening has mended
	losses  []*CorruptError           // damage that opening has found and could not mend
	strays  []string                  // files that opening has found, and that are none of the store's
	anyBad  atomic.Bool               // for a look without the lock
	good    goodPlaces
	heals   atomic.Int64 // how often something that was lost has come back
}

// mended notes damage that opening has found and made good.
func (s *Store) mended(d *CorruptError) {
	s.log.Warn("damage was found and mended", "error", d)
	s.badMu.Lock()
	defer s.badMu.Unlock()
	s.repairs = append(s.repairs, d)
}

// lost notes damage that opening has found, and that concerns no more than what lies there.
func (s *Store) lost(err error) {
	s.log.Error("damage was found; the store opens with what is left", "error", err)
	var c *CorruptError
	if errors.As(err, &c) {
		s.badMu.Lock()
		defer s.badMu.Unlock()
		s.losses = append(s.losses, c)
	}
}

// maxBad bounds how many bad places are remembered. Past it a disk is lost anyway: damage is still found, by each reader
// for itself.
const maxBad = 1 << 20

// noteBad notes a place whose bytes are not those of the object that its segment's record names, or can't be read:
// nothing new is pointed to it, and what is written again gets another place. If it is wrong for certain, nobody reads
// from it either. It says whether the place is news.
func (s *Store) noteBad(pl segment.Location, wrong bool) bool {
	s.badMu.Lock()
	defer s.badMu.Unlock()
	was, known := s.bad[pl]
	if known || len(s.bad) < maxBad {
		if s.bad == nil {
			s.bad = map[segment.Location]bool{}
		}
		s.bad[pl] = was || wrong
		s.anyBad.Store(true)
	}
	s.good.forget(pl)
	return !known
}

// markBad notes a bad place, and tells of it. That the disk gave no answer may pass.
func (s *Store) markBad(pl segment.Location, err error) {
	if disk.Transient(err) {
		return
	}
	if s.noteBad(pl, disk.Corrupt(err) && !disk.Unreadable(err)) {
		s.log.Error("an object is damaged", "error", err)
	}
}

// well forgets that a place was bad: its bytes were read, and are right.
func (s *Store) well(pl segment.Location) {
	if !s.anyBad.Load() {
		return
	}
	s.badMu.Lock()
	defer s.badMu.Unlock()
	if s.bad[pl] {
		s.heals.Add(1)
	}
	delete(s.bad, pl)
}

// isBad reports a place that has the wrong bytes.
func (s *Store) isBad(pl segment.Location) bool {
	if !s.anyBad.Load() {
		return false
	}
	s.badMu.Lock()
	defer s.badMu.Unlock()
	return s.bad[pl]
}

// isSick reports a place that is bad, or could not be read.
func (s *Store) isSick(pl segment.Location) bool {
	if !s.anyBad.Load() {
		return false
	}
	s.badMu.Lock()
	defer s.badMu.Unlock()
	_, ok := s.bad[pl]
	return ok
}
