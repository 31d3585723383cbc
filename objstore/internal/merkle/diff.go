package merkle

import "context"

// Change is a range of an image that differs from an earlier image.
type Change struct {
	Off  int64 // bytes
	Len  int64 // bytes
	Zero bool  // the range reads as zeroes in the later image, and takes no space there
}

// ReadNode returns the node of a level by its hash. The caller does not change the node.
type ReadNode func(ctx context.Context, h Hash, level int) (*Node, error)

// Diff calls changed with the ranges, in order, that have to be written to an image with root from,
// cut or extended by zeroes to the size of to, to make an image with root to of it. A range consists
// of whole chunks that differ, cut at the end of to; neighbours of a kind are one range.
//
// It reads the nodes that lie above a difference and no others, and holds two of them a level. Both
// roots must have one chunk size; their depths may differ. An error of read or changed ends it, and
// so does the end of ctx.
func Diff(ctx context.Context, from, to *Root, read ReadNode, changed func(Change) error) error {
	d := differ{ctx: ctx, to: to, read: read, changed: changed}
	level := max(from.Depth, to.Depth)
	err := d.walk(level, 0, subtree{from.Top, from.Depth}, subtree{to.Top, to.Depth})
	if err == nil {
		err = d.flush()
	}
	return err
}

type differ struct {
	ctx     context.Context //nolint:containedctx // a Diff is one call, spread over methods
	to      *Root
	read    ReadNode
	changed func(Change) error
	last    Change // found, and not reported yet: the next one may continue it
}

// subtree is the tree below a hash. The deeper of two trees has levels that the other one lacks:
// there, the subtree of the other one is the first child, and its siblings are zeroes.
type subtree struct {
	hash  Hash
	level int // of the hash: at most the level at which it is looked at
}

// equal reports whether both hold the same content. Subtrees of different levels have different
// hashes unless they are zeroes, as the level is hashed.
func (t subtree) equal(o subtree) bool { return t.hash == o.hash }

// children returns what reads child j of a subtree that is looked at on a level above the chunks.
func (d *differ) children(t subtree, level int) (func(j int) subtree, error) {
	if t.level < level {
		return func(j int) subtree {
			if j == 0 {
				return t
			}
			return subtree{level: level - 1}
		}, nil
	}
	if t.hash.IsZero() {
		return func(int) subtree { return subtree{level: level - 1} }, nil
	}
	n, err := d.read(d.ctx, t.hash, level)
	if err != nil {
		return nil, err
	}
	return func(j int) subtree { return subtree{n[j], level - 1} }, nil
}

// walk compares node number i of a level of both trees.
func (d *differ) walk(level int, i int64, from, to subtree) error {
	chunk := int64(d.to.ChunkSize)
	off := i * Span(level) * chunk
	if off >= d.to.Size || from.equal(to) {
		return nil
	}
	if level == 0 {
		return d.found(Change{Off: off, Len: min(chunk, d.to.Size-off), Zero: to.hash.IsZero()})
	}
	if err := d.ctx.Err(); err != nil {
		return err
	}
	before, err := d.children(from, level)
	if err != nil {
		return err
	}
	after, err := d.children(to, level)
	if err != nil {
		return err
	}
	for j := range FanOut {
		if err := d.walk(level-1, i*FanOut+int64(j), before(j), after(j)); err != nil {
			return err
		}
	}
	return nil
}

// found notes a change behind all others.
func (d *differ) found(c Change) error {
	if d.last.Off+d.last.Len == c.Off && d.last.Zero == c.Zero && d.last.Len > 0 {
		d.last.Len += c.Len
		return nil
	}
	err := d.flush()
	d.last = c
	return err
}

// flush reports the last change.
func (d *differ) flush() error {
	if d.last.Len == 0 {
		return nil
	}
	return d.changed(d.last)
}
