package object

import (
	"context"
	"fmt"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// Root reads the root object of an image of size bytes. That of an image of zeroes is stored
// nowhere.
func (r *Reader) Root(ctx context.Context, id merkle.Hash, size int64) (*merkle.Root, error) {
	return r.RootAt(ctx, id, size, Located{})
}

// RootAt is Root for one that LocateAll has found; the zero Located has it looked for.
func (r *Reader) RootAt(ctx context.Context, id merkle.Hash, size int64, at Located) (*merkle.Root, error) {
	empty := merkle.EmptyRoot(size, r.chunkSize)
	if empty.Hash() == id {
		return &empty, nil
	}
	b, err := []byte(nil), error(nil)
	if at.Location != 0 {
		b, err = r.ReadAt(at.Location, at.Bytes, &id, merkle.KindRoot)
	}
	if at.Location == 0 || disk.Damaged(err) {
		b, err = r.Read(ctx, &id, merkle.KindRoot)
	}
	if disk.Damaged(err) {
		return r.rebuildRoot(ctx, id, empty, err)
	}
	if err != nil {
		return nil, err
	}
	root, err := merkle.DecodeRoot(b)
	if err == nil && root.ChunkSize != r.chunkSize {
		err = fmt.Errorf("chunk size %d bytes in a store of %d", root.ChunkSize, r.chunkSize)
	}
	if err != nil {
		return nil, &disk.CorruptError{File: segment.Dir, Object: "root " + id.String(), Err: err}
	}
	return root, nil
}

// rebuildRoot makes a lost root object again: all but the hash of its top node is known, and the
// segments list the nodes of that level. The root's own hash says which one it was.
func (r *Reader) rebuildRoot(ctx context.Context, id merkle.Hash, root merkle.Root, cause error) (*merkle.Root, error) {
	found := false
	err := r.eachOfLevel(ctx, root.Depth, func(top merkle.Hash) bool {
		root.Top = top
		found = root.Hash() == id
		return !found
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, cause
	}
	r.log.Warn("a root object is lost and was made again from its tree", "root", id, "error", cause)
	return &root, nil
}

// eachOfLevel calls f with the hash of every tree node of a level, and of everything that could be
// one in damaged segments, until f returns false or ctx ends.
func (r *Reader) eachOfLevel(ctx context.Context, level int, f func(merkle.Hash) bool) error {
	defer r.pins.Hold().Release()
	for _, g := range r.segments.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		objs, err := g.Objects()
		if err != nil {
			continue
		}
		for _, o := range objs {
			if o.Kind == merkle.NodeKind(level) && !f(o.Hash) {
				return nil
			}
		}
	}
	for _, g := range r.segments.Damaged() {
		if more, err := r.eachNode(ctx, g, level, f); !more || err != nil {
			return err
		}
	}
	return nil
}
