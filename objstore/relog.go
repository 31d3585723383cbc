package objstore

import (
	"context"
	"fmt"
	"slices"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/extent"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
)

// A chunk that a layer has written in part, and whose old bytes are damaged or lost, can't settle:
// a new hash would vouch for unknown bytes. All else must settle nevertheless. So the chunk stays
// as it was in the tree, and what the layer has of it is relogged: written once more, to the newest
// layer, under everything newer. There it is pinned by the damage until the chunk is written whole
// or discarded.
//
// A snapshot has no newer layer to relog to: as long as one waits to settle, so does the layer, and
// no new one is made.

// oldError says that the old bytes of a chunk, which are to stay, can't be read.
type oldError struct{ err error }

func (e *oldError) Error() string { return e.err.Error() }
func (e *oldError) Unwrap() error { return e.err }

// damagePins are chunks that are pinned in a volume's tail by damage, and why.
type damagePins struct {
	err    error
	chunks []extent.Extent // sectors
	gen    uint64          // the newest that wrote to them: once it has settled and pinned nothing, the pins are gone
}

// pinByDamage leaves the chunk of the sectors [from, to) as it was in the tree, and relogs what the
// layer has of it.
func (st *settling) pinByDamage(from, to uint64, cause error) error {
	if st.pins == nil {
		st.pins = &damagePins{err: cause}
	}
	v, chunk := st.v, extent.Extent{End: to, Sectors: to - from}
	err := st.heads.mayPin(st, chunk)
	if err == nil {
		err = v.relog(st.ctx, st.l, from, to)
	}
	if err != nil {
		return err
	}
	st.pins.chunks = append(st.pins.chunks, chunk)
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.layers {
		if e, ok := l.extents.At(from); ok && e.Start() < to {
			st.pins.gen = max(st.pins.gen, l.gen)
		}
	}
	return nil
}

// mayPin returns an error if a snapshot, or a reader of one, needs one of the chunks settled.
func (c *catalog) mayPin(st *settling, chunks ...extent.Extent) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayPinLocked(st, chunks)
}

// mayPinLocked is mayPin.
// REQUIRES: mu is held.
func (c *catalog) mayPinLocked(st *settling, chunks []extent.Extent) error {
	v := st.v
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, sn := range v.ref.Unsettled {
		if st.needs(sn.Gen, chunks) {
			return fmt.Errorf("snapshot %s@%s can't settle: %w", v.Name(), sn.Name, st.pins.err)
		}
	}
	for _, n := range v.namings {
		if !n.settled && st.needs(n.gen, chunks) {
			return fmt.Errorf("a new snapshot of volume %s can't settle: %w", v.Name(), st.pins.err)
		}
	}
	for w := range c.views {
		if w.v == v && w.gen > v.baseGen && st.needs(w.gen, chunks) {
			return fmt.Errorf("a deleted snapshot of volume %s is still read, and can't settle: %w", v.Name(), st.pins.err)
		}
	}
	return nil
}

// needs reports whether the volume, as it was at gen, shows something of the layer in the chunks.
// REQUIRES: v.mu is held.
func (st *settling) needs(gen uint64, chunks []extent.Extent) bool {
	return slices.ContainsFunc(chunks, func(c extent.Extent) bool {
		_, ok := shown(st.l, st.v.upTo(gen)[1:], c.Start(), c.End)
		return ok
	})
}

// flushRelogged makes durable what was relogged: the layer that had it is about to go.
func (st *settling) flushRelogged() error {
	if st.pins == nil {
		return nil
	}
	v := st.v
	if err := v.Flush(); err != nil {
		return err
	}
	if v.pins.Load() == nil {
		st.log.Error("a damaged chunk was written in part: what was written stays in the tail until the chunk is written whole or discarded",
			"volume", v.Name(), "error", st.pins.err)
	}
	v.pins.Store(st.pins)
	return nil
}

// relog writes once more what the oldest layer has in [from, to) and no newer one hides.
func (v *volume) relog(ctx context.Context, l *layer, from, to uint64) error {
	for {
		v.mu.Lock()
		e, ok := shown(l, v.layers[1:], from, to)
		v.mu.Unlock()
		if !ok {
			return nil
		}
		err := v.extendJournal(1)
		switch {
		case err != nil:
		case e.Segment == 0:
			err = v.relogHole(l, e)
		default:
			err = v.relogData(ctx, l, e)
		}
		if err != nil {
			return fmt.Errorf("relog sectors %d to %d: %w", e.Start(), e.End-1, err)
		}
	}
}

// shown returns the first run of sectors in [from, to) that the layer has and no newer one hides.
// Under the volume's lock.
func shown(l *layer, newer []*layer, from, to uint64) (extent.Extent, bool) {
	for _, e := range l.extents.Overlapping(from, to) {
		e = e.Cut(from, to)
		for at := e.Start(); at < e.End; {
			next := hiddenUpTo(newer, at)
			if next > at {
				at = next
				continue
			}
			end := e.End
			for _, n := range newer {
				if c, ok := n.extents.At(at); ok {
					end = min(end, c.Start())
				}
			}
			return e.Cut(at, end), true
		}
	}
	return extent.Extent{}, false
}

// hiddenUpTo returns the end of an extent that one of the layers has at a sector; none: the sector.
func hiddenUpTo(layers []*layer, at uint64) uint64 {
	for _, l := range layers {
		if e, ok := l.extents.At(at); ok && e.Start() <= at {
			return e.End
		}
	}
	return at
}

// admitRelogged is admit for what has been admitted before: the tail's limits are not for it.
// REQUIRES: v.mu is held.
func (v *volume) admitRelogged() error {
	if err := v.s.writeError(); err != nil {
		return err
	}
	if err := v.openError(); err != nil {
		return err
	}
	if !v.writable {
		return fmt.Errorf("nobody has opened the volume yet: %w", ErrBusy)
	}
	if j := v.active().journal; j.Full(v.inflight+1) || !j.Fits(v.inflight+1) {
		return ErrBusy
	}
	return nil
}

func (v *volume) relogHole(l *layer, e extent.Extent) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.admitRelogged(); err != nil {
		return err
	}
	if now, ok := shown(l, v.layers[1:], e.Start(), e.End); !ok || now != e {
		return nil // overtaken
	}
	a := v.active()
	if err := a.journal.Append(&journal.Record{Type: journal.Hole, Sector: e.Start(), Count: e.Sectors}); err != nil {
		return v.s.fail(err)
	}
	v.appended++
	a.insert(e)
	v.partial.written(e.Start(), e.End)
	return nil
}

func (v *volume) relogData(ctx context.Context, l *layer, e extent.Extent) error {
	g := v.s.segments.Get(e.Segment)
	if g == nil {
		return fmt.Errorf("segment %08x: %w", e.Segment, ErrNotFound)
	}
	buf := disk.AlignedBuffer(int(e.Sectors) * SectorSize)
	if err := disk.ReadAligned(g.Data, buf, int64(e.File)*SectorSize); err != nil {
		return fmt.Errorf("read %s: %w", segment.Name(e.Segment), err)
	}
	off := int64(e.Start()) * SectorSize
	if err := v.s.space.mustTake(largestWrite(off, len(buf), v.s.sb.ChunkSize), true); err != nil {
		return err
	}
	if err := v.waitSegment(ctx); err != nil {
		return err
	}
	var w Write
	v.mu.Lock()
	err := v.admitRelogged()
	if err == nil {
		err = v.reserve(off, len(buf), &w)
	}
	v.mu.Unlock()
	if err != nil {
		return err
	}
	err = disk.WriteAligned(w.seg.Data, buf, w.FileOff)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.abort(&w)
		return v.s.spaceError(fmt.Errorf("write %s: %w", segment.Name(w.seg.ID), err))
	}
	if now, ok := shown(l, v.layers[1:], e.Start(), e.End); !ok || now != e {
		v.abort(&w) // overtaken
		return nil
	}
	if _, err := v.journalWrite(&w); err != nil {
		return err
	}
	v.appended++
	return nil
}

// settlePinned tries to settle what a volume keeps in its tail, and says why it can't.
func (t *settler) settlePinned(ctx context.Context, v *volume) error {
	if v.pins.Load() == nil {
		return nil
	}
	gen, err := v.freeze()
	if err == nil {
		err = t.waitSettled(ctx, v, gen)
	}
	if err != nil {
		return err
	}
	return v.pinnedError()
}

func (v *volume) pinnedError() error {
	k := v.pins.Load()
	if k == nil {
		return nil
	}
	return fmt.Errorf("volume %s has a damaged chunk that was written in part; write all of it, or discard it: %w", v.Name(), k.err)
}
