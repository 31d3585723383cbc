package mark

import (
	"context"

	"varve/objstore/internal/merkle"
)

// Walker walks the trees of images. It remembers which nodes it has visited, as far as its memory
// goes, and visits these once however many images have them. Where that memory has been too small,
// it walks each tree beside the one before, and skips what the two have in common; so trees that
// have much in common, like the snapshots of a volume, are best walked one after the other. Not safe
// for concurrent use.
type Walker struct {
	node    NodeReader
	alive   func(h *merkle.Hash)
	visited visited
	levels  []besides   // what is read of each level; a walk is in one node of a level at a time
	before  merkle.Root // of the tree that was walked last, without an error
	nodes   int64
}

// NodeReader reads a tree node of a level. It may block. It returns room, or a node that stays as it
// is and that the caller must not change.
type NodeReader func(ctx context.Context, h merkle.Hash, level int, room *merkle.Node) (*merkle.Node, error)

// besides is room for a node, and for the one in its place in the tree before. A walk allocates
// nothing for a node: a large store has some hundred thousand of 8 KiB, and garbage of that size keeps
// Go's collector busy, which delays requests.
type besides struct{ node, before merkle.Node }

// noNode is in the place of a node where the tree before is not looked at. Nobody changes it.
var noNode merkle.Node

// NewWalker returns a walker that reads tree nodes by node, and calls alive with the hash of each
// node, and with that of each chunk once for each leaf that has it; where its memory is too small,
// more often. nodes is about how many tree nodes there are; limit bounds the memory, in bytes.
func NewWalker(node NodeReader, alive func(h *merkle.Hash), nodes, limit int64) *Walker {
	return &Walker{node: node, alive: alive, visited: newVisited(nodes, limit)}
}

// Tree walks the tree of an image, but for what is known to be visited. After an error not all of the
// tree was visited.
func (w *Walker) Tree(ctx context.Context, r *merkle.Root) error {
	var before merkle.Hash
	if w.before.Depth == r.Depth {
		before = w.before.Top
	}
	w.before = merkle.Root{}
	for len(w.levels) <= r.Depth {
		w.levels = append(w.levels, besides{})
	}
	if err := w.walk(ctx, &r.Top, &before, r.Depth); err != nil {
		return err
	}
	w.before = *r
	return nil
}

// Nodes returns how many nodes were visited, each as often as it was.
func (w *Walker) Nodes() int64 { return w.nodes }

// Bytes returns the memory that the walker takes.
func (w *Walker) Bytes() int64 { return w.visited.bytes() }

// walk visits a node and what is below it. before is the node in its place in the tree before, of
// which everything was visited, or zero.
func (w *Walker) walk(ctx context.Context, h, before *merkle.Hash, level int) error {
	if h.IsZero() || *h == *before || w.visited.has(h) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := w.node(ctx, *h, level, &w.levels[level].node)
	if err != nil {
		return err
	}
	w.nodes++
	w.alive(h)
	if level == 1 {
		for i := range n {
			if !n[i].IsZero() {
				w.alive(&n[i])
			}
		}
		w.visited.add(h)
		return nil
	}
	beside := &noNode
	if w.visited.forgotten && !before.IsZero() {
		if beside, err = w.node(ctx, *before, level, &w.levels[level].before); err != nil {
			return err
		}
	}
	for i := range n {
		if err := w.walk(ctx, &n[i], &beside[i], level-1); err != nil {
			return err
		}
	}
	w.visited.add(h) // not earlier: another tree that has it meets the same error below it
	return nil
}
