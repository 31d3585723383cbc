package objstore

import (
	"cmp"
	"slices"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

const (
	// leastWaste is what a segment occupies at least, in bytes, beside what lives in it, to be worth
	// copying.
	leastWaste = 1 << 20
	// sparseness is how much longer than what lives in them sealed segments may be together. In a store
	// that is overwritten at random, keeping each a quarter full would copy a third of what is written;
	// a quarter on average costs less than a fiftieth.
	sparseness = 4
	// fewSegments is how many segments more there may be: each costs a descriptor, and a footer.
	fewSegments = 4
	// tinyShare is the part of a segment's capacity below which what lives in it is always worth copying.
	tinyShare = 64
)

// victims returns the segments that are to be evacuated, those with the least to copy first:
//
//	nothing in it is alive                                 unlinked without copying
//	at least half of what it occupies is dead              holes are too short to be punched, or too many
//	the same, a quarter, where punching frees nothing      btrfs
//	less than a 64th of its capacity is alive, and         few segments instead of many
//	fewSegments are so small
//	all are four times as long as what is alive, with      the same
//	fewSegments more, and those with more alive as well
//
// It is called behind a sweep, which has punched what can be punched, and knows of known what is
// left there. live is as for evacuate.
func (e *evacuator) victims(live func(*merkle.Hash) bool, known map[*segment.File]weighed) ([]*segment.File, error) {
	var all []weighed
	for _, g := range e.segments.All() {
		if !g.Sealed() || g.Damaged() || e.sealer.holds(g) {
			continue
		}
		w, ok := known[g]
		if !ok {
			var err error
			if w, err = e.weigh(g, live); err != nil {
				return nil, err
			}
		}
		all = append(all, w)
	}
	chosen, err := e.choose(all)
	out := make([]*segment.File, len(chosen))
	for i := range chosen {
		out[i] = chosen[i].g
	}
	return out, err
}

// choose returns those that are victims.
func (e *evacuator) choose(all []weighed) ([]weighed, error) {
	share := int64(2)
	if frees, err := e.sealer.punchFrees(); err != nil {
		return nil, err
	} else if !frees {
		share = 4
	}
	var chosen, rest, tiny []weighed
	for _, w := range all {
		switch {
		case w.objects > 0 && w.alive == 0, w.waste() >= leastWaste && w.waste() >= w.used/share:
			chosen = append(chosen, w)
		case w.known && w.alive < w.g.Capacity/tinyShare:
			tiny = append(tiny, w)
		case w.known:
			rest = append(rest, w)
		}
	}
	if len(tiny) >= fewSegments {
		chosen = append(chosen, tiny...)
	} else {
		rest = append(rest, tiny...)
	}
	chosen = append(chosen, sparsest(rest, chosen)...)
	slices.SortStableFunc(chosen, byAlive)
	return chosen, nil
}

func byAlive(a, b weighed) int { return cmp.Compare(a.alive, b.alive) }

// sparsest returns those of rest, which it sorts, that are to be copied beside chosen for the segments
// not to be longer than sparseness allows.
func sparsest(rest, chosen []weighed) []weighed {
	var alive, length int64 // bytes; the copies are as long as what is alive
	for i := range chosen {
		alive += chosen[i].alive
		length += chosen[i].alive
	}
	for i := range rest {
		alive += rest[i].alive
		length += rest[i].g.Capacity
	}
	slices.SortStableFunc(rest, byAlive)
	n := 0
	for ; n < len(rest) && length > sparseness*alive+fewSegments*rest[n].g.Capacity; n++ {
		length -= rest[n].g.Capacity - rest[n].alive
	}
	return rest[:n]
}

// weighed is what is known of a segment, in bytes.
type weighed struct {
	g       *segment.File
	used    int64 // on disk
	alive   int64 // that living objects occupy, in whole blocks
	objects int   // in its list
	footer  int64 // on disk
	known   bool  // alive is known
}

// waste is what the segment occupies beside what is alive.
func (w *weighed) waste() int64 {
	if !w.known {
		return 0
	}
	return w.used - w.alive - w.footer - disk.BlockSize
}

// weigh finds out what lives in a sealed segment. It reads the list.
func (e *evacuator) weigh(g *segment.File, live func(*merkle.Hash) bool) (weighed, error) {
	used, err := e.usage.ofSegment(g)
	if err != nil {
		return weighed{}, err
	}
	w := weighed{g: g, used: used, footer: g.FooterSize()}
	objs, err := g.Objects()
	if disk.Damaged(err) {
		e.objects.NoteDamage(g, err)
		return w, nil
	}
	if err != nil {
		return w, err
	}
	w.known, w.objects = true, len(objs)
	for i := range objs {
		if live(&objs[i].Hash) {
			w.alive += disk.RoundUp(int64(objs[i].Length), disk.BlockSize)
		}
	}
	return w, nil
}
