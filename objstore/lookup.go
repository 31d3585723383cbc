package objstore

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// The index is a hint: what it does not know may be in any segment. Looking there costs a read of every record, 48 bytes an
// object, so that it is done once for all the objects that are wanted together (a leaf has 256 chunks), begins with the
// segments that the index lacks, the newest first, goes on in the others, outwards from where an object was found last, and
// ends when all are found. Segments that have no object of the kind are left out, as the trailer tells, and of those that the
// index lacks the ones whose sketch says that they have none of the objects. What is nowhere is remembered (absentees).

// wanted are objects of one kind that are looked for, and where they were found.
type wanted struct {
	kind  merkle.Kind
	left  map[merkle.Hash]bool // not found yet
	found map[merkle.Hash]located
}

type located struct {
	place segment.Location
	bytes int
}

func (w *wanted) take(h merkle.Hash, pl segment.Location, n int) {
	delete(w.left, h)
	w.found[h] = located{pl, n}
}

// locateAll finds objects that the store refers to. Those that are missing in the result are in no segment; damage is the
// error of a segment that is damaged, and may have them, or nil.
func (s *Store) locateAll(hashes []merkle.Hash, k merkle.Kind) (found map[merkle.Hash]located, damage, err error) {
	w := &wanted{kind: k, left: map[merkle.Hash]bool{}, found: make(map[merkle.Hash]located, len(hashes))}
	gen := s.absent.begin(s.heals.Load())
	for i := range hashes {
		h := &hashes[i]
		if _, known := w.found[*h]; known || h.IsZero() {
			continue
		}
		if pl, ok := s.index.Get(h); ok {
			if n, err := s.check(pl, h, k); err == nil {
				w.found[*h] = located{pl, n}
				continue
			}
		}
		if err, absent := s.absent.has(*h); absent {
			damage = err
			continue
		}
		w.left[*h] = true
	}
	if len(w.left) == 0 {
		return w.found, damage, nil
	}
	found, w.found = w.found, map[merkle.Hash]located{}
	damage, err = s.search(w)
	if err != nil {
		return nil, nil, err
	}
	objs := make([]foundObject, 0, len(w.found))
	for h, l := range w.found {
		found[h] = l
		objs = append(objs, foundObject{h, k, l.place})
	}
	if len(objs) > 0 && !s.filling.Load() { // else the indexer does it, and readers don't wait for what it writes
		_ = s.enterFound(objs) // a hint that the next look-up can do without
	}
	s.absent.add(w.left, damage, gen)
	return found, damage, nil
}

// locate is locateAll for one object; one that is nowhere is a CorruptError.
func (s *Store) locate(h *merkle.Hash, k merkle.Kind) (segment.Location, int, error) {
	found, damage, err := s.locateAll([]merkle.Hash{*h}, k)
	if err != nil {
		return 0, 0, err
	}
	if l, ok := found[*h]; ok {
		return l.place, l.bytes, nil
	}
	return 0, 0, nowhere(h, k, damage)
}

func nowhere(h *merkle.Hash, k merkle.Kind, damage error) error {
	err := errors.New("no segment has it")
	if damage != nil {
		err = fmt.Errorf("no readable segment has it; %w", damage)
	}
	return &CorruptError{File: segment.Dir, Object: fmt.Sprintf("%v %v", k, h), Err: err}
}

// search goes through the records of segments: first of those that the index lacks, then of all others, for the index may
// have lost any entry. Damaged ones come last, by their content. err says that a segment could not be read for a reason that
// says nothing about it.
func (s *Store) search(w *wanted) (damage, err error) {
	var lacking, known []*segment.File
	for _, g := range s.segments.All() {
		if s.index.has(g.ID) {
			known = append(known, g)
		} else {
			lacking = append(lacking, g)
		}
	}
	slices.Reverse(lacking)
	low, high := splitAt(known, s.foundLast(w.kind).Load())
	for _, order := range [][]*segment.File{lacking, outwards(low, high)} {
		for _, g := range order {
			if len(w.left) == 0 {
				break
			}
			if rerr := s.searchRecord(g, w); disk.Damaged(rerr) {
				damage = rerr
			} else if rerr != nil {
				err = rerr
			}
		}
	}
	for _, g := range s.damagedSegments() {
		damage = g.Damage()
		for h := range w.left {
			if pl, n, ok := s.salvage(g, &h, w.kind); ok {
				w.take(h, pl, n)
			}
		}
	}
	if len(w.left) == 0 {
		err = nil
	}
	return damage, err
}

// foundLast is where an object like those of the kind was found last: chunks and nodes lie apart.
func (s *Store) foundLast(k merkle.Kind) *atomic.Uint32 {
	if k == merkle.KindChunk {
		return &s.lastChunk
	}
	return &s.lastNode
}

// splitAt gives the segments up to an ID, the nearest first, and those behind it.
func splitAt(all []*segment.File, id uint32) (low, high []*segment.File) {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].ID <= id {
			low = append(low, all[i])
		}
	}
	return low, all[len(low):]
}

// outwards takes turns between the two sides: what was written together is found together.
func outwards(low, high []*segment.File) []*segment.File {
	out := make([]*segment.File, 0, len(low)+len(high))
	for len(low) > 0 || len(high) > 0 {
		for _, side := range []*[]*segment.File{&low, &high} {
			if len(*side) > 0 {
				out = append(out, (*side)[0])
				*side = (*side)[1:]
			}
		}
	}
	return out
}

// mayHold reports whether the segment has objects of the kind at all.
func mayHold(g *segment.File, k merkle.Kind) bool {
	chunks, others := g.Stored()
	if k == merkle.KindChunk {
		return chunks > 0
	}
	return others > 0
}

// searchRecord looks for what is wanted in one segment's record. Footers come from the cache, as far as they are there.
func (s *Store) searchRecord(g *segment.File, w *wanted) error {
	before := len(w.left)
	look := func(o segment.Object) {
		if pl := segment.At(g.ID, o.Block); o.Kind == w.kind && w.left[o.Hash] && !s.isBad(pl) {
			w.take(o.Hash, pl, int(o.Length))
		}
	}
	sealed, known := g.EachOpen(look)
	if sealed {
		if known != nil {
			return known // its objects are told by their content
		}
		if !mayHold(g, w.kind) || !s.sketches.MayHave(g.ID, w.left) {
			return nil
		}
		entries, err := s.footers.Get(g)
		if err != nil {
			if disk.Damaged(err) {
				s.noteDamage(g, err)
			}
			return err
		}
		if !s.index.has(g.ID) {
			s.sketches.Add(g.ID, entries)
		}
		for i := range entries.Len() {
			if !w.left[entries.Hash(i)] {
				continue
			}
			if o, err := entries.At(i); err == nil {
				look(o)
			}
		}
	}
	if len(w.left) < before {
		s.foundLast(w.kind).Store(g.ID)
	}
	return nil
}

// absentLimit bounds how many objects are remembered as absent: some 100 bytes each.
const absentLimit = 64 << 10

// absentees are objects that no segment has, so that they are not looked for again and again. They are forgotten when
// something is healed: it may be what they were looked for in. One that is stored is taken out.
type absentees struct {
	mu     sync.Mutex
	heals  int64                              // of the store, when the first of them was looked for
	stored int64                              // how often objects were taken out
	hashes *simplelru.LRU[merkle.Hash, error] // and a damaged segment that may have it, or nil
}

// begin says what add has to be told: objects may be stored while they are looked for.
func (a *absentees) begin(heals int64) (gen int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hashes == nil || a.heals != heals {
		a.hashes, _ = simplelru.NewLRU[merkle.Hash, error](absentLimit, nil) // fails for size 0 only
		a.heals = heals
		a.stored++
	}
	return a.stored
}

func (a *absentees) has(h merkle.Hash) (damage error, absent bool) { //nolint:revive // the error is a value here
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hashes.Get(h)
}

// add notes what was looked for in vain since begin said gen.
func (a *absentees) add(hashes map[merkle.Hash]bool, damage error, gen int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stored != gen {
		return // one of them may have come meanwhile
	}
	for h := range hashes {
		a.hashes.Add(h, damage)
	}
}

// storedNow takes out what has been recorded. It reports whether any of it was looked for: who could not find it may try again.
func (a *absentees) storedNow(objs []segment.Object) (missed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stored++
	if a.hashes == nil {
		return false
	}
	for i := range objs {
		missed = a.hashes.Remove(objs[i].Hash) || missed
	}
	return missed
}

// indexed is pl as the index keeps it.
func indexed(pl segment.Location) index.Place {
	return index.Place{Segment: pl.Segment(), Block: pl.Block()}
}
