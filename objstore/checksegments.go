package objstore

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// segments validates the records of the segments that are to be read, and hashes every object.
func (c *checker) segments() error {
	all := c.deps.segments.All()
	c.report.Segments = len(all)
	bad := map[objectID]int{}
	for _, g := range c.scope.todo {
		err := c.verifying(g, func() error {
			objs, err := c.list(g)
			if err != nil {
				return nil // list has reported it
			}
			return c.hash(g, objs, bad)
		})
		if err != nil {
			return err
		}
		failpoint.Here(failpoint.CheckVerified)
	}
	if len(bad) == 0 {
		return nil
	}
	// An object that has a good copy elsewhere affects no image.
	for _, g := range all {
		objs, err := c.objectsOf(g)
		if err != nil {
			continue
		}
		for _, o := range objs {
			if _, ok := bad[objectID{o.Hash, o.Kind}]; ok && !c.deps.objects.Quarantine.Suspect(segment.At(g.ID, o.Block)) {
				delete(bad, objectID{o.Hash, o.Kind})
			}
		}
	}
	c.objects = bad
	return nil
}

// list validates the records of a segment, and returns its objects: none if the segment was retired
// since the check began.
func (c *checker) list(g *segment.File) ([]segment.Object, error) {
	defer c.deps.lookups.Hold().Release()
	if c.deps.segments.Get(g.ID) != g {
		return nil, nil
	}
	c.record(g)
	return g.Objects()
}

// objectsOf returns the objects of a segment, none if it was retired since the check began.
func (c *checker) objectsOf(g *segment.File) ([]segment.Object, error) {
	defer c.deps.lookups.Hold().Release()
	if c.deps.segments.Get(g.ID) != g {
		return nil, nil
	}
	return g.Objects()
}

// record validates a segment's header, and its footer or object log.
func (c *checker) record(g *segment.File) {
	known := c.named(segment.Name(g.ID)) // opening has reported it
	there := func(file string) {
		if file == segment.Name(g.ID) {
			c.there(file, "segment", func() bool { return c.deps.segments.Get(g.ID) == g }) // else the segment was retired meanwhile
		} else {
			c.there(file, "log", always)
		}
	}
	_ = g.Check(c.ctx, c.deps.store, there, func(err error) { // an error: the segment was retired meanwhile, or ctx has ended
		if bad := (*CorruptError)(nil); known && errors.As(err, &bad) && bad.Object == "segment footer" {
			return
		}
		c.found(err)
	})
}

// named reports whether opening has found a file damaged, and could not repair it.
func (c *checker) named(file string) bool {
	return slices.ContainsFunc(c.report.Damage, func(d Damage) bool { return d.File == file && !d.Repaired })
}

// hash reads the objects of a segment, and reports those whose bytes do not have their hash.
func (c *checker) hash(g *segment.File, objs []segment.Object, bad map[objectID]int) error {
	buf := disk.AlignedBuffer(disk.MaxChunkSize)
	for _, o := range objs {
		if err := c.pace(int(o.Length)); err != nil {
			return err
		}
		there, err := c.read(g, &o, buf[:o.Length])
		if !there {
			continue
		}
		loc := segment.At(g.ID, o.Block)
		c.report.Objects++
		c.report.Bytes += int64(o.Length)
		if c.report.Objects%256 == 0 || time.Since(c.told) >= tellEvery {
			c.tell()
		}
		if err == nil {
			c.deps.objects.Verify(loc)
			continue
		}
		err = &CorruptError{File: segment.Name(g.ID), Offset: loc.Offset(), Object: fmt.Sprintf("%v %v", o.Kind, o.Hash), Err: err}
		bad[objectID{o.Hash, o.Kind}] = c.found(err)
		c.deps.objects.Damaged(loc, err)
	}
	return nil
}

// read reads an object past the page cache, and compares it with its hash. there is false if its
// location was freed since the segment's list was read.
func (c *checker) read(g *segment.File, o *segment.Object, b []byte) (there bool, err error) {
	defer c.deps.lookups.Hold().Release()
	if c.deps.segments.Get(g.ID) != g {
		return false, nil
	}
	loc := segment.At(g.ID, o.Block)
	err = disk.ReadAligned(g.Data, b, loc.Offset())
	if err == nil && merkle.Sum(o.Kind, b) != o.Hash {
		err = errOtherBytes
	}
	if err != nil && !c.deps.objects.Lists(g, o) {
		return false, nil
	}
	return true, err
}
