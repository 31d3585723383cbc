package objstore

import (
	"context"
	"errors"
	"fmt"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
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
	s       *Store
	id      merkle.Hash
	root    merkle.Root
	version uint64 // changes with the root, so that a leaf loaded for an older one is not installed
	runs    []*[leavesPerRun]*leaf
	hand    int // where the sweep of the cache goes on
}

var emptyLeaf = &leaf{used: true}

func newBase(s *Store, root merkle.Root) *base {
	b := &base{s: s, root: root, id: root.Hash()}
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
	b.s.leaves.Add(countLeaf(l) - countLeaf(old))
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
		if l.repairGen != b.s.objects.Quarantine.Generation() && (loc == segment.Lost || b.s.objects.Quarantine.Suspect(loc)) || b.s.objects.Quarantine.Quarantined(loc) {
			b.setLeaf(int64(i/merkle.FanOut), nil) // the chunk may have been stored again elsewhere
			return ErrNotLoaded
		}
		switch loc {
		case 0:
			p.add(nil, 0, int(end-from)*SectorSize, true)
		case segment.Lost:
			return &CorruptError{File: segment.Dir, Object: fmt.Sprintf("chunk %d of the image", i), Err: errors.New("no segment has it")}
		default:
			g := b.s.segments.Get(loc.Segment())
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

// locker is the lock of a base's owner.
type locker interface {
	Lock()
	Unlock()
}

// load brings the leaves of a range into memory. current returns the owner's base, and is called
// under the owner's lock.
func (s *Store) load(ctx context.Context, mu locker, current func() *base, off, length int64) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		mu.Lock()
		b := current()
		i, ok := b.missing(off, length)
		root, version := b.root, b.version
		mu.Unlock()
		if !ok {
			return nil
		}
		hashes, err := s.leafHashes(ctx, &root, i)
		if err != nil {
			return err
		}
		l, err := s.resolve(ctx, hashes)
		if err != nil {
			return err
		}
		mu.Lock()
		if b == current() && b.version == version {
			b.setLeaf(i, l)
		}
		mu.Unlock()
		s.trimLeaves()
	}
}

// leafHashes walks from the root to leaf i; nil for a leaf of zeroes.
func (s *Store) leafHashes(ctx context.Context, root *merkle.Root, i int64) (*merkle.Node, error) {
	h := root.Top
	for level := root.Depth; ; level-- {
		if h.IsZero() {
			return nil, nil
		}
		n, err := s.objects.Node(ctx, h, level)
		if err != nil || level == 1 {
			return n, err
		}
		h = n[i/merkle.Span(level-2)%merkle.FanOut]
	}
}

// resolve finds the locations of a leaf's chunks.
func (s *Store) resolve(ctx context.Context, n *merkle.Node) (*leaf, error) {
	if n == nil {
		return emptyLeaf, nil
	}
	l := &leaf{used: true, repairGen: s.objects.Quarantine.Generation()}
	found, damage, err := s.objects.LocateAll(ctx, n[:], merkle.KindChunk)
	if err != nil {
		return nil, err
	}
	lost := 0
	for i := range n {
		at, ok := found[n[i]]
		switch {
		case n[i].IsZero():
		case ok:
			l.locations[i] = at.Location
		default:
			// A read of this chunk is an error; its neighbours can be read, and it can be
			// overwritten.
			l.locations[i] = segment.Lost
			if lost++; lost == 1 {
				err = object.Missing(&n[i], merkle.KindChunk, damage)
			}
		}
	}
	if lost > 0 {
		s.log.Error("chunks are lost", "chunks", lost, "first", err)
	}
	return l, nil
}

// trimLeaves keeps the leaves of all images within Options.LeafCache.
func (s *Store) trimLeaves() {
	limit := s.opts.LeafCache / leafBytes
	for round := 0; s.leaves.Load() > limit && round < 2; round++ {
		images := s.catalog.images()
		for _, im := range images {
			if over := s.leaves.Load() - limit*7/8; over > 0 {
				im.sweep(over)
			}
		}
	}
}

type sweeper interface{ sweep(n int64) }
