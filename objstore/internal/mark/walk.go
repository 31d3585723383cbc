package mark

import (
	"context"

	"varve/objstore/internal/merkle"
)

// Walker walks the trees of images, and visits each node once however many images have it. Not safe
// for concurrent use.
type Walker struct {
	// Node reads a tree node of a level. It blocks.
	Node func(ctx context.Context, h merkle.Hash, level int) (*merkle.Node, error)
	// Alive is called with the hash of each node, and of each chunk once for each leaf that has it.
	Alive func(h *merkle.Hash)

	seen  map[key]struct{}
	nodes int64
}

// key stands for a hash of a tree node. To find two nodes that agree in 16 bytes of BLAKE3 takes
// 2^64 attempts; a shorter key would let a volume's writer hide one node behind another. The level
// is hashed too, so that nodes of different levels differ.
type key [16]byte

// Tree walks the tree of an image, but for what was visited before. After an error not all of the
// tree was visited.
func (w *Walker) Tree(ctx context.Context, r *merkle.Root) error {
	if w.seen == nil {
		w.seen = map[key]struct{}{}
	}
	return w.node(ctx, r.Top, r.Depth)
}

// Nodes returns how many nodes were visited.
func (w *Walker) Nodes() int64 { return w.nodes }

func (w *Walker) node(ctx context.Context, h merkle.Hash, level int) error {
	if h.IsZero() {
		return nil
	}
	k := key(h[:])
	if _, visited := w.seen[k]; visited {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := w.Node(ctx, h, level)
	if err != nil {
		return err
	}
	w.seen[k] = struct{}{}
	w.nodes++
	w.Alive(&h)
	for i := range n {
		switch {
		case n[i].IsZero():
		case level == 1:
			w.Alive(&n[i])
		default:
			if err := w.node(ctx, n[i], level-1); err != nil {
				return err
			}
		}
	}
	return nil
}
