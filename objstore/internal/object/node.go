package object

import (
	"context"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// NodeCache is how many tree nodes are kept in memory, 8 KiB each.
const NodeCache = 2048

// Node returns the tree node of a level. The caller must not change it.
func (r *Reader) Node(ctx context.Context, h merkle.Hash, level int) (*merkle.Node, error) {
	r.nodesMu.Lock()
	n, ok := r.nodes.Get(h)
	r.nodesMu.Unlock()
	if ok {
		return n, nil
	}
	n, err := r.FreshNode(ctx, h, level)
	if err == nil {
		r.KeepNode(h, n)
	}
	return n, err
}

// PeekNode is Node for one that is not read again: the cache stays as it is.
func (r *Reader) PeekNode(ctx context.Context, h merkle.Hash, level int) (*merkle.Node, error) {
	r.nodesMu.Lock()
	n, ok := r.nodes.Peek(h)
	r.nodesMu.Unlock()
	if ok {
		return n, nil
	}
	return r.FreshNode(ctx, h, level)
}

// FreshNode reads a tree node from its segment.
func (r *Reader) FreshNode(ctx context.Context, h merkle.Hash, level int) (*merkle.Node, error) {
	b, err := r.Read(ctx, &h, merkle.NodeKind(level))
	if err != nil {
		return nil, err
	}
	n, err := merkle.DecodeNode(b)
	if err != nil {
		return nil, &disk.CorruptError{File: segment.Dir, Object: "tree node " + h.String(), Err: err}
	}
	return n, nil
}

// KeepNode puts a node into the cache. It must not be changed any more.
func (r *Reader) KeepNode(h merkle.Hash, n *merkle.Node) {
	r.nodesMu.Lock()
	r.nodes.Add(h, n)
	r.nodesMu.Unlock()
}
