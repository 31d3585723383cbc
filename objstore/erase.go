package objstore

import (
	"errors"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

// A subtree that a layer discards whole becomes a hole in the tree above it, and is not read. Only
// the account of bytes that are not holes has to know what was in it. If the layer leaves nothing
// of the image but what it writes itself (a discard of the whole device, with or without a new file
// system on it), the account starts again and nothing is read. Else the leaves are counted before
// the settling begins: paced, and a bounded number at a time, so that the settler serves the other
// volumes in between.

// countAtOnce is how many tree nodes one round of counting reads before the settler looks at the
// other volumes.
const countAtOnce = 512

// errCounting is the result of a settling that has not counted all yet, and continues in the
// settler's next round.
var errCounting = errors.New("what was discarded is being counted")

// subtree is node i of a level.
type subtree struct {
	level int
	i     int64
	hash  merkle.Hash
}

// erasures is what a settling discards whole.
type erasures struct {
	trees   []subtree
	remains bool  // part of the image is as it was, neither written nor discarded by the layer
	reads   int   // nodes read in this round
	data    int64 // bytes that are not holes in the leaves that the layer writes to
}

// surveyErasures finds what the layer discards whole, and takes it out of the account.
func (st *settling) surveyErasures() error {
	st.erased.remains = true
	if !st.l.holes {
		return nil
	}
	st.erased.remains = false
	if err := st.survey(subtree{st.old.Depth, 0, st.old.Top}); err != nil {
		return err
	}
	if !st.erased.remains {
		return nil
	}
	for _, t := range st.erased.trees {
		n, err := st.countChunks(t)
		if err != nil {
			return err
		}
		st.logical -= n * int64(st.old.ChunkSize)
	}
	return nil
}

// survey looks for erasures below a node, along the nodes that settling changes.
func (st *settling) survey(t subtree) error {
	if t.hash.IsZero() {
		return nil
	}
	from, end := st.sectors(t)
	switch at, touched := st.l.extents.Next(from); {
	case !touched || at >= end:
		st.erased.remains = true
		return nil
	case st.l.extents.Hole(from, end):
		st.erased.trees = append(st.erased.trees, t)
		return nil
	case t.level == 1:
		return nil // settling.leaf counts what is left of this leaf
	}
	n, err := st.objects.Node(st.ctx, t.hash, t.level)
	if err != nil {
		return err
	}
	for c := range n {
		if err := st.survey(subtree{t.level - 1, t.i*merkle.FanOut + int64(c), n[c]}); err != nil {
			return err
		}
	}
	return nil
}

// sectors returns the sectors of the image that a node covers.
func (st *settling) sectors(t subtree) (from, end uint64) {
	span := uint64(merkle.Span(t.level)) * uint64(st.old.ChunkSize) / SectorSize
	from = uint64(t.i) * span
	return from, min(from+span, uint64(st.old.Size)/SectorSize)
}

// countChunks counts the chunks below a node that are not holes. Counts of subtrees of the second
// level and above are kept for the next round. The error is errCounting if this round has read
// countAtOnce nodes.
func (st *settling) countChunks(t subtree) (int64, error) {
	if t.hash.IsZero() {
		return 0, nil
	}
	if n, ok := st.v.counted[t.hash]; ok {
		return n, nil
	}
	if t.level > 1 && st.erased.reads >= countAtOnce {
		return 0, errCounting
	}
	if err := st.ctx.Err(); err != nil {
		return 0, err
	}
	if err := st.pace(len(t.hash) * merkle.FanOut); err != nil {
		return 0, err
	}
	st.erased.reads++
	n, err := st.objects.PeekNode(st.ctx, t.hash, t.level)
	if disk.Damaged(err) {
		return 0, nil // what is discarded here is unknown: it stays in the account
	}
	if err != nil {
		return 0, err
	}
	if t.level == 1 {
		return int64(n.Count()), nil
	}
	var sum int64
	for c := range n {
		m, err := st.countChunks(subtree{t.level - 1, t.i*merkle.FanOut + int64(c), n[c]})
		if err != nil {
			return 0, err
		}
		sum += m
	}
	if st.v.counted == nil {
		st.v.counted = map[merkle.Hash]int64{}
	}
	st.v.counted[t.hash] = sum
	return sum, nil
}

// account returns how many bytes of the new root are not holes.
// REQUIRES: catalog.mu is held.
func (st *settling) account() int64 {
	if !st.erased.remains {
		return st.erased.data
	}
	return st.v.ref.Logical + st.logical
}

// forget drops the leaves of a subtree that is a hole now.
// REQUIRES: the lock of the base's owner is held.
func (b *base) forget(t subtree) {
	per := merkle.Span(t.level) / merkle.FanOut // leaves
	leaves := (b.root.Size + b.leafSpan() - 1) / b.leafSpan()
	for i, end := t.i*per, min((t.i+1)*per, leaves); i < end; {
		if b.runs[i/leavesPerRun] == nil {
			i = (i/leavesPerRun + 1) * leavesPerRun
			continue
		}
		b.setLeaf(i, nil)
		i++
	}
}
