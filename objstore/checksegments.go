package objstore

import (
	"errors"
	"fmt"
	"slices"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// segments looks at the records of all segments and hashes every object.
func (c *checker) segments() error {
	all := c.s.segments.All()
	c.report.Segments = len(all)
	bad := map[objectID]int{}
	for _, g := range all {
		c.record(g)
		objs, err := g.Objects()
		if err != nil {
			continue // record has said so
		}
		if err := c.hash(g, objs, bad); err != nil {
			return err
		}
	}
	if len(bad) == 0 {
		return nil
	}
	// One that is good somewhere else is not needed here.
	for _, g := range all {
		objs, err := g.Objects()
		if err != nil {
			continue
		}
		for _, o := range objs {
			if _, ok := bad[objectID{o.Hash, o.Kind}]; ok && !c.s.objects.Quarantine.Suspect(segment.At(g.ID, o.Block)) {
				delete(bad, objectID{o.Hash, o.Kind})
			}
		}
	}
	c.objects = bad
	return nil
}

// record looks at a segment's header, and its footer or object log.
func (c *checker) record(g *segment.File) {
	known := c.named(segment.Name(g.ID)) // as opening found it
	there := func(file string) {
		if file == segment.Name(g.ID) {
			c.there(file, "segment", func() bool { return c.s.segments.Get(g.ID) == g }) // else it was retired meanwhile
		} else {
			c.there(file, "log", always)
		}
	}
	_ = g.Check(c.s.sb.ID, there, func(err error) { // an error: it was retired meanwhile
		if bad := (*CorruptError)(nil); known && errors.As(err, &bad) && bad.Object == "segment footer" {
			return
		}
		c.found(err)
	})
}

// named reports a file that opening has found damaged, and could not mend.
func (c *checker) named(file string) bool {
	return slices.ContainsFunc(c.report.Damage, func(d Damage) bool { return d.File == file && !d.Mended })
}

// hash reads the objects of a segment, and notes those that are not what their hash says.
func (c *checker) hash(g *segment.File, objs []segment.Object, bad map[objectID]int) error {
	buf := disk.AlignedBuffer(disk.MaxChunkSize)
	for _, o := range objs {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		b := buf[:o.Length]
		pl := segment.At(g.ID, o.Block)
		err := disk.ReadAligned(g.Data, b, pl.Offset())
		if err == nil && merkle.Sum(o.Kind, b) != o.Hash {
			err = errOtherBytes
		}
		c.report.Objects++
		c.report.Bytes += int64(o.Length)
		if c.progress != nil && c.report.Objects%256 == 0 {
			c.progress(CheckProgress{c.report.Bytes, max(c.total, c.report.Bytes)})
		}
		if err == nil {
			c.s.objects.Verify(pl)
			continue
		}
		err = &CorruptError{File: segment.Name(g.ID), Offset: pl.Offset(), Object: fmt.Sprintf("%v %v", o.Kind, o.Hash), Err: err}
		bad[objectID{o.Hash, o.Kind}] = c.found(err)
		c.s.objects.Damaged(pl, err)
	}
	return nil
}
