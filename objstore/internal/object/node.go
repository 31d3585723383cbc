package object

import (
	"context"
	"sync"

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
	return r.PeekNodeInto(ctx, h, level, new(merkle.Node))
}

// PeekNodeInto is PeekNode without an allocation: it returns room, or a node of the cache, which the
// caller must not change. After an error room is undefined.
func (r *Reader) PeekNodeInto(ctx context.Context, h merkle.Hash, level int, room *merkle.Node) (*merkle.Node, error) {
	r.nodesMu.Lock()
	n, ok := r.nodes.Peek(h)
	r.nodesMu.Unlock()
	if ok {
		return n, nil
	}
	return room, r.readNode(ctx, &h, level, room)
}

// FreshNode reads a tree node from its segment.
func (r *Reader) FreshNode(ctx context.Context, h merkle.Hash, level int) (*merkle.Node, error) {
	n := new(merkle.Node)
	if err := r.readNode(ctx, &h, level, n); err != nil {
		return nil, err
	}
	return n, nil
}

// encodedNodes are buffers for encodings of nodes.
var encodedNodes = sync.Pool{New: func() any { return new([merkle.NodeSize]byte) }}

// readNode reads a tree node from its segment into n.
func (r *Reader) readNode(ctx context.Context, h *merkle.Hash, level int, n *merkle.Node) error {
	buf, _ := encodedNodes.Get().(*[merkle.NodeSize]byte)
	defer encodedNodes.Put(buf)
	b, err := r.read(ctx, h, merkle.NodeKind(level), buf[:])
	if err != nil {
		return err
	}
	if err := n.Decode(b); err != nil {
		return &disk.CorruptError{File: segment.Dir, Object: "tree node " + h.String(), Err: err}
	}
	return nil
}

// KeepNode puts a node into the cache. It must not be changed any more.
func (r *Reader) KeepNode(h merkle.Hash, n *merkle.Node) {
	r.nodesMu.Lock()
	r.nodes.Add(h, n)
	r.nodesMu.Unlock()
}
