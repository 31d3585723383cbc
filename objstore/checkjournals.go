package objstore

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
)

// journals reads the journals of the layers that have not settled.
func (c *checker) journals() error {
	type live struct {
		*journal.File
		gen   uint64
		count int
	}
	for _, v := range c.volumes() {
		var all []live
		v.mu.Lock()
		for _, l := range v.layers {
			if l.journal != nil {
				all = append(all, live{l.journal, l.gen, l.journal.Count()})
			}
		}
		v.mu.Unlock()
		for _, j := range all {
			if err := c.ctx.Err(); err != nil {
				return err
			}
			c.journal(v, j.File, j.gen, j.count)
		}
	}
	return nil
}

// journal reads a journal that may be written meanwhile, up to its first count records.
func (c *checker) journal(v *volume, j *journal.File, gen uint64, count int) {
	rp, err := j.Reread(c.deps.fs)
	switch {
	case errors.Is(err, os.ErrNotExist) && !v.has(gen):
		return // the generation has settled meanwhile
	case errors.Is(err, os.ErrNotExist):
	case rp != nil && rp.Whole >= count:
		err = nil // the record behind them may be half written
		if rp.BadHeader != nil {
			err = rp.BadHeader
		}
	case err == nil:
		err = &CorruptError{
			File: j.Name(), Offset: journal.Offset(rp.Whole), Object: "journal record",
			Err: fmt.Errorf("%d records can be read of %d", rp.Whole, count),
		}
	}
	if err == nil {
		return
	}
	a := Affected{Volume: v.Name(), Ranges: []Range{{0, v.Size()}}}
	if rp != nil {
		if ranges, unknown := readBehind(c.deps.fs, c.deps.store, v.ref.ID, j.Name(), rp.Whole, count); unknown == 0 {
			a.Ranges = mergeRanges(ranges, v.Size())
		}
	}
	c.found(disk.AsCorrupt(err, j.Name(), 0, "journal"), a)
}

// has reports whether gen has not settled yet.
func (v *volume) has(gen uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.layers, func(l *layer) bool { return l.gen == gen })
}

// tails reads the data that has not settled.
func (c *checker) tails() error {
	for _, v := range c.volumes() {
		var all []journal.Span
		v.mu.Lock()
		for _, l := range v.layers {
			for e := range l.extents.All() {
				if !e.Hole() {
					all = append(all, journal.Span{From: e.Start(), To: e.End})
				}
			}
		}
		v.mu.Unlock()
		for _, r := range mergeRanges(all, v.Size()) {
			for off := r.Off; off < r.Off+r.Len; off += MaxRequest / 4 {
				if err := c.tail(v, off, int(min(MaxRequest/4, r.Off+r.Len-off))); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// tail reads the parts of a range that belong to no tree.
func (c *checker) tail(v *volume, off int64, length int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	var p Plan
	if err := planLoaded(c.ctx, v, off, length, &p); err != nil {
		if disk.Damaged(err) || errors.Is(err, ErrClosed) {
			return nil // trees has reported it; or the volume was deleted
		}
		return err
	}
	defer v.Release(&p)
	buf := disk.AlignedBuffer(length)
	for i := range p.Pieces {
		e := &p.Pieces[i]
		if e.Hole || e.settled {
			continue
		}
		c.report.Tail += int64(e.Len)
		if err := disk.ReadAligned(e.seg.Data, buf[e.BufOff:e.BufOff+e.Len], e.FileOff); err != nil {
			c.found(&CorruptError{File: segment.Name(e.seg.ID), Offset: e.FileOff, Object: "data that has not settled", Err: err},
				Affected{Volume: v.Name(), Ranges: []Range{{off + int64(e.BufOff), int64(e.Len)}}})
		}
	}
	return nil
}
