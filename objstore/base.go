package objstore

import (
	"errors"
	"fmt"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// leaf is a leaf of the tree in memory: the locations of its 256 chunks.
type leaf struct {
	locations [merkle.FanOut]segment.Location
	used      bool  // since the last sweep of the cache
	repairGen int64 // the repair generation in which the locations were looked up
}

const (
	leafBytes    = merkle.FanOut * 8
	leavesPerRun = 1024
)

// base is the settled state of an image: a root, and the leaves of its tree that are in memory.
// Guarded by its owner's lock.
type base struct {
	cache   *leafCache
	id      merkle.Hash
	root    merkle.Root
	version uint64 // changes with the root, so that a leaf loaded for an older one is not installed
	runs    []*[leavesPerRun]*leaf
	hand    int // where the sweep of the cache continues
}

var emptyLeaf = &leaf{used: true}

func newBase(cache *leafCache, root merkle.Root) *base {
	b := &base{cache: cache, root: root, id: root.Hash()}
	leaves := (root.Size + b.leafSpan() - 1) / b.leafSpan()
	b.runs = make([]*[leavesPerRun]*leaf, (leaves+leavesPerRun-1)/leavesPerRun)
	return b
}

// leafSpan is how many bytes of the image a leaf covers.
func (b *base) leafSpan() int64 { return int64(b.root.ChunkSize) * merkle.FanOut }

// leaf returns leaf i if it is in memory, else nil.
func (b *base) leaf(i int64) *leaf {
	if b.root.Top.IsZero() {
		return emptyLeaf
	}
	run := b.runs[i/leavesPerRun]
	if run == nil {
		return nil
	}
	l := run[i%leavesPerRun]
	if l != nil && !l.used { // the empty leaf is shared, and always used
		l.used = true
	}
	return l
}

func (b *base) setLeaf(i int64, l *leaf) {
	run := b.runs[i/leavesPerRun]
	if run == nil {
		if l == nil {
			return
		}
		run = new([leavesPerRun]*leaf)
		b.runs[i/leavesPerRun] = run
	}
	old := run[i%leavesPerRun]
	run[i%leavesPerRun] = l
	b.cache.loaded.Add(countLeaf(l) - countLeaf(old))
}

func countLeaf(l *leaf) int64 {
	if l == nil || l == emptyLeaf {
		return 0
	}
	return 1
}

// drop forgets every leaf.
func (b *base) drop() {
	for i := range b.runs {
		if b.runs[i] == nil {
			continue
		}
		for j := range b.runs[i] {
			b.setLeaf(int64(i*leavesPerRun+j), nil)
		}
		b.runs[i] = nil
	}
}

// sweep drops leaves that were not used since the last sweep, until n were dropped or each run was
// looked at once.
func (b *base) sweep(n int64) (dropped int64) {
	for range b.runs {
		if dropped >= n {
			return dropped
		}
		b.hand = (b.hand + 1) % len(b.runs)
		run := b.runs[b.hand]
		if run == nil {
			continue
		}
		for j, l := range run {
			switch {
			case l == nil || l == emptyLeaf:
			case l.used:
				l.used = false
			default:
				b.setLeaf(int64(b.hand*leavesPerRun+j), nil)
				dropped++
			}
		}
	}
	return dropped
}

// plan adds the pieces of the sectors [from, to) to p. ErrNotLoaded if a leaf is missing.
func (b *base) plan(p *Plan, from, to uint64) error {
	chunk := uint64(b.root.ChunkSize) / SectorSize
	for from < to {
		i := from / chunk
		l := b.leaf(int64(i / merkle.FanOut))
		if l == nil {
			return ErrNotLoaded
		}
		end := min((i+1)*chunk, to)
		loc := l.locations[i%merkle.FanOut]
		if l.repairGen != b.cache.objects.Quarantine.Generation() && (loc == segment.Lost || b.cache.objects.Quarantine.Suspect(loc)) || b.cache.objects.Quarantine.Quarantined(loc) {
			b.setLeaf(int64(i/merkle.FanOut), nil) // the chunk may have been stored again elsewhere
			return ErrNotLoaded
		}
		switch loc {
		case 0:
			p.add(nil, 0, int(end-from)*SectorSize, true)
		case segment.Lost:
			return &CorruptError{File: segment.Dir, Object: fmt.Sprintf("chunk %d of the image", i), Err: errors.New("no segment has it")}
		default:
			g := b.cache.segments.Get(loc.Segment())
			if g == nil { // retired: the objects that were alive lie elsewhere
				b.setLeaf(int64(i/merkle.FanOut), nil)
				return ErrNotLoaded
			}
			p.add(g, loc.Offset()+int64(from-i*chunk)*SectorSize, int(end-from)*SectorSize, true)
		}
		from = end
	}
	return nil
}

// missing returns the first leaf in the bytes [off, off+length) that is not in memory.
func (b *base) missing(off, length int64) (int64, bool) {
	span := b.leafSpan()
	for i := off / span; i*span < off+length; i++ {
		if b.leaf(i) == nil {
			return i, true
		}
	}
	return 0, false
}
