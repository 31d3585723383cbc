package object

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// The index is a hint: an object that it does not know may be in any segment. A search reads every
// object list, 48 bytes an object. So there is one search for all objects that are wanted together
// (a leaf has 256 chunks). It begins with the segments that the index lacks, the newest first,
// continues with the others, outwards from where an object was found last, and ends when all are
// found. Segments without an object of the kind, by their trailer, are left out, as are those whose
// sketch excludes all wanted objects. Objects that are in no segment are remembered (absentees).

// Located is where an object was found, and its length.
type Located struct {
	Location segment.Location
	Bytes    int
}

// search is a search for objects of one kind.
type search struct {
	kind  merkle.Kind
	left  map[merkle.Hash]bool // not found yet
	found map[merkle.Hash]Located
}

func (w *search) take(h merkle.Hash, l Located) {
	delete(w.left, h)
	w.found[h] = l
}

// LocateAll finds objects of one kind that the store refers to; zero hashes are left out. Objects
// that the result lacks are in no segment; damage is then the error of a damaged segment that may
// have them, or nil. err is a transient error of reading a segment, or that of ctx.
func (r *Reader) LocateAll(ctx context.Context, hashes []merkle.Hash, k merkle.Kind) (found map[merkle.Hash]Located, damage, err error) {
	defer r.pins.Hold().Release()
	for {
		moves := r.moves.Load()
		found, damage, err = r.locateAll(ctx, hashes, k)
		if err != nil || r.moves.Load() == moves || !lacks(found, hashes) {
			return found, damage, err
		}
	}
}

// lacks reports whether one of the hashes was not found.
func lacks(found map[merkle.Hash]Located, hashes []merkle.Hash) bool {
	for i := range hashes {
		if _, ok := found[hashes[i]]; !ok && !hashes[i].IsZero() {
			return true
		}
	}
	return false
}

// Move announces that objects are about to move: their copies are found already, and the originals
// soon will not be. A search that began before may miss both, and begins again.
func (r *Reader) Move() { r.moves.Add(1) }

// locateAll is LocateAll, if no objects move meanwhile.
func (r *Reader) locateAll(ctx context.Context, hashes []merkle.Hash, k merkle.Kind) (found map[merkle.Hash]Located, damage, err error) {
	w := &search{kind: k, left: map[merkle.Hash]bool{}, found: make(map[merkle.Hash]Located, len(hashes))}
	stored := r.absent.begin(r.Quarantine.Generation())
	for i := range hashes {
		h := &hashes[i]
		if _, known := w.found[*h]; known || h.IsZero() {
			continue
		}
		if l, ok := r.index.Get(h); ok {
			if n, err := r.Validate(l, h, k); err == nil {
				w.found[*h] = Located{l, n}
				continue
			}
		}
		if err, absent := r.absent.has(*h); absent {
			damage = err
			continue
		}
		w.left[*h] = true
	}
	if len(w.left) == 0 {
		return w.found, damage, nil
	}
	found, w.found = w.found, map[merkle.Hash]Located{}
	damage, err = r.search(ctx, w)
	if err != nil {
		return nil, nil, err
	}
	objs := make([]Found, 0, len(w.found))
	for h, l := range w.found {
		found[h] = l
		objs = append(objs, Found{h, k, l.Location})
	}
	if len(objs) > 0 {
		r.index.Found(objs)
	}
	r.absent.add(w.left, damage, stored)
	return found, damage, nil
}

// Locate is LocateAll for one object; one that is nowhere is a disk.CorruptError.
func (r *Reader) Locate(ctx context.Context, h *merkle.Hash, k merkle.Kind) (segment.Location, int, error) {
	found, damage, err := r.LocateAll(ctx, []merkle.Hash{*h}, k)
	if err != nil {
		return 0, 0, err
	}
	if l, ok := found[*h]; ok {
		return l.Location, l.Bytes, nil
	}
	return 0, 0, Missing(h, k, damage)
}

// Missing returns the error for an object that LocateAll has not found.
func Missing(h *merkle.Hash, k merkle.Kind, damage error) error {
	err := errors.New("no segment has it")
	if damage != nil {
		err = fmt.Errorf("no readable segment has it; %w", damage)
	}
	return &disk.CorruptError{File: segment.Dir, Object: fmt.Sprintf("%v %v", k, h), Err: err}
}

// search searches the object lists of segments: first of those that the index lacks, then of all
// others, as the index may have lost any entry. Damaged segments come last, by their content. The
// results are those of LocateAll.
func (r *Reader) search(ctx context.Context, w *search) (damage, err error) {
	var lacking, complete []*segment.File
	for _, g := range r.segments.All() {
		if r.index.Complete(g.ID) {
			complete = append(complete, g)
		} else {
			lacking = append(lacking, g)
		}
	}
	slices.Reverse(lacking)
	low, high := splitAt(complete, r.lastFound(w.kind).Load())
	for _, order := range [][]*segment.File{lacking, outwards(low, high)} {
		for _, g := range order {
			if len(w.left) == 0 {
				break
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if serr := r.searchSegment(g, w); disk.Damaged(serr) {
				damage = serr
			} else if serr != nil {
				err = serr
			}
		}
	}
	for _, g := range r.segments.Damaged() {
		damage = g.Damage()
		for h := range w.left {
			l, ok, err := r.Salvage(ctx, g, &h, w.kind)
			if err != nil {
				return nil, err
			}
			if ok {
				w.take(h, l)
			}
		}
	}
	if len(w.left) == 0 {
		err = nil
	}
	return damage, err
}

// SearchFrom makes the next search for nodes or roots begin at a segment.
func (r *Reader) SearchFrom(segment uint32) { r.lastNode.Store(segment) }

// lastFound returns where an object of a similar kind was found last: chunks and nodes lie apart.
func (r *Reader) lastFound(k merkle.Kind) *atomic.Uint32 {
	if k == merkle.KindChunk {
		return &r.lastChunk
	}
	return &r.lastNode
}

// splitAt returns the segments up to an ID, the nearest first, and those behind it.
func splitAt(all []*segment.File, id uint32) (low, high []*segment.File) {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].ID <= id {
			low = append(low, all[i])
		}
	}
	return low, all[len(low):]
}

// outwards alternates between the two sides, as objects that were written together lie close
// together.
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

// mayHold reports whether a segment has objects of the kind at all.
func mayHold(g *segment.File, k merkle.Kind) bool {
	chunks, others := g.Stored()
	if k == merkle.KindChunk {
		return chunks > 0
	}
	return others > 0
}

// searchSegment searches one segment's object list for the wanted objects. Footers come from the
// cache if it has them.
func (r *Reader) searchSegment(g *segment.File, w *search) error {
	before := len(w.left)
	look := func(o segment.Object) {
		if l := segment.At(g.ID, o.Block); o.Kind == w.kind && w.left[o.Hash] && !r.Quarantine.Quarantined(l) {
			w.take(o.Hash, Located{l, int(o.Length)})
		}
	}
	for {
		sealed, damage := g.EachOpen(look)
		if !sealed {
			break
		}
		if damage != nil {
			return damage // its objects are found by their content
		}
		err := r.searchFooter(g, w, look)
		if errors.Is(err, segment.ErrListChanged) {
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	if len(w.left) < before {
		r.lastFound(w.kind).Store(g.ID)
	}
	return nil
}

// searchFooter calls look for each object of a sealed segment that is wanted.
func (r *Reader) searchFooter(g *segment.File, w *search, look func(segment.Object)) error {
	if !mayHold(g, w.kind) || !r.sketches.MayHave(g.ID, w.left) {
		return nil
	}
	entries, err := r.footers.Get(g)
	if err != nil {
		if disk.Damaged(err) {
			r.NoteDamage(g, err)
		}
		return err
	}
	if !r.index.Complete(g.ID) {
		r.sketches.Add(g.ID, entries)
	}
	for i := range entries.Len() {
		if !w.left[entries.Hash(i)] {
			continue
		}
		if o, err := entries.At(i); err == nil {
			look(o)
		}
	}
	return nil
}
