package objstore

import (
	"errors"
	"fmt"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// image is a root that refs name.
type image struct {
	volume, snap string
	root         merkle.Hash
	size         int64
}

// imageRoots returns the roots of all volumes and snapshots, by name of the volume. A snapshot that
// has not settled is read through its volume's root, unless the volume is refused. hold is called
// with mu held, so that none of the roots is collected before it keeps them.
func (c *catalog) imageRoots(hold func([]image)) []image {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []image
	defer func() { hold(out) }()
	for _, ref := range c.refs.Sorted() {
		v := c.volumes[ref.ID]
		v.mu.Lock()
		id := v.base.id
		v.mu.Unlock()
		if d := v.damage.Load(); d == nil || !d.root {
			out = append(out, image{ref.Name, "", id, ref.Size})
		}
		for _, sn := range ref.Order {
			if sn.Settled {
				out = append(out, image{ref.Name, sn.Name, sn.Root, sn.Size})
			} else if v.damage.Load() == nil { // it is read through the volume
				out = append(out, image{ref.Name, sn.Name, id, sn.Size})
			}
		}
		for _, p := range c.past.of(ref.ID) {
			out = append(out, image{ref.Name, p.snap.Name, p.snap.Root, p.snap.Size})
		}
	}
	return out
}

func rootsOf(images []image) []rootOf {
	out := make([]rootOf, len(images))
	for i := range images {
		out[i] = rootOf{images[i].root, images[i].size}
	}
	return out
}

// trees walks every tree once, and a tree with damage once more for each image, to find the ranges
// that the damage affects.
func (c *checker) trees() error {
	var release func()
	images := c.deps.catalog.imageRoots(func(all []image) { release = c.deps.hold(rootsOf(all)) })
	defer release()
	c.report.Images = len(images)
	roots := make([]*merkle.Root, len(images))
	for i, im := range images {
		r, err := c.deps.objects.Root(c.ctx, im.root, im.size)
		if err != nil && !disk.Damaged(err) {
			return err
		}
		if err != nil {
			c.found(disk.AsCorrupt(err, segment.Dir, 0, "root "+im.root.String()), Affected{im.volume, im.snap, []Range{{0, im.size}}})
			continue
		}
		roots[i] = r
		if err := c.walk(r.Top, r.Depth); err != nil {
			return err
		}
	}
	if err := c.seek(); err != nil {
		return err
	}
	for i, im := range images {
		if r := roots[i]; r != nil {
			if err := c.locate(im, r, r.Top, r.Depth, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// walk walks a subtree unless it was walked before. It reports the nodes that are lost, and notes
// the chunks that the index does not have.
func (c *checker) walk(h merkle.Hash, level int) error {
	if _, seen := c.clean[h]; h.IsZero() || seen {
		return nil
	}
	if err := c.pace(merkle.FanOut * merkle.HashSize); err != nil {
		return err
	}
	n, err := c.deps.objects.FreshNode(c.ctx, h, level)
	if err != nil && !disk.Damaged(err) {
		return err
	}
	if err != nil {
		c.clean[h] = false
		id := objectID{h, merkle.NodeKind(level)}
		if _, known := c.objects[id]; !known {
			c.objects[id] = c.found(disk.AsCorrupt(err, segment.Dir, 0, fmt.Sprintf("%v %v", id.kind, h)))
		}
		return nil
	}
	clean := true
	for _, child := range n {
		switch {
		case child.IsZero():
		case level > 1:
			if err := c.walk(child, level-1); err != nil {
				return err
			}
			clean = clean && c.clean[child]
		default:
			if _, bad := c.objects[objectID{child, merkle.KindChunk}]; bad {
				clean = false
			} else if _, ok := c.deps.objects.Lookup(&child, merkle.KindChunk); !ok {
				c.missing[child] = true
				clean = false
			}
		}
	}
	c.clean[h] = clean
	return nil
}

// seek looks for the chunks that the index does not have: in the records, and, where records are
// damaged, by content.
func (c *checker) seek() error {
	if len(c.missing) == 0 {
		return nil
	}
	for _, g := range c.deps.segments.All() {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		objs, err := c.objectsOf(g)
		if err != nil {
			continue
		}
		for _, o := range objs {
			if o.Kind == merkle.KindChunk && !c.deps.objects.Quarantine.Suspect(segment.At(g.ID, o.Block)) {
				delete(c.missing, o.Hash)
			}
		}
	}
	for _, g := range c.deps.segments.Damaged() {
		for h := range c.missing {
			_, ok, err := c.deps.objects.Salvage(c.ctx, g, &h, merkle.KindChunk)
			if err != nil {
				return err
			}
			if ok {
				delete(c.missing, h)
			}
		}
	}
	if n := len(c.missing); n > 0 {
		c.lost = c.found(&CorruptError{File: segment.Dir, Object: fmt.Sprintf("%d chunks", n), Err: errors.New("no segment has them")})
	}
	return nil
}

// locate adds the range of node number i of a level to each damage below it.
func (c *checker) locate(im image, root *merkle.Root, h merkle.Hash, level int, i int64) error {
	if h.IsZero() || c.clean[h] {
		return nil
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	span := merkle.Span(level) * int64(root.ChunkSize)
	if at, bad := c.objects[objectID{h, merkle.NodeKind(level)}]; bad {
		c.affect(at, im, i*span, span)
		return nil
	}
	n, err := c.deps.objects.Node(c.ctx, h, level)
	if err != nil {
		return err
	}
	for j, child := range n {
		if level > 1 {
			if err := c.locate(im, root, child, level-1, i*merkle.FanOut+int64(j)); err != nil {
				return err
			}
			continue
		}
		off := i*span + int64(j)*int64(root.ChunkSize)
		if at, bad := c.objects[objectID{child, merkle.KindChunk}]; bad {
			c.affect(at, im, off, int64(root.ChunkSize))
		} else if c.missing[child] {
			c.affect(c.lost, im, off, int64(root.ChunkSize))
		}
	}
	return nil
}

func (c *checker) affect(damage int, im image, off, length int64) {
	d := &c.report.Damage[damage]
	length = min(length, im.size-off)
	n := len(d.Affects)
	if n == 0 || d.Affects[n-1].Volume != im.volume || d.Affects[n-1].Snapshot != im.snap {
		d.Affects = append(d.Affects, Affected{Volume: im.volume, Snapshot: im.snap})
		n++
	}
	a := &d.Affects[n-1]
	if m := len(a.Ranges); m > 0 && a.Ranges[m-1].Off+a.Ranges[m-1].Len == off {
		a.Ranges[m-1].Len += length
		return
	}
	a.Ranges = append(a.Ranges, Range{off, length})
}
