package objstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// deadLayer is a layer that has settled, with its journal and what it occupies.
type deadLayer struct {
	s      *Store
	v      *volume
	l      *layer
	pinned *segment.Pin // what reclaim waits for; nil: not yet known
}

// reclaim does step F of a settling: it removes the journal, and gives what the layer occupied back to the file
// system, but for the objects that were adopted. A crash in between leaves room that the next
// opening finds. A reclaim that ctx has ended begins again after Resume.
func (d *deadLayer) reclaim(ctx context.Context) error {
	s, v := d.s, d.v
	if j := d.l.journal; j != nil {
		v.commitMu.Lock() // a commit that began before the layer had settled may write to it
		j.Close()
		v.commitMu.Unlock()
		// Not durably: refs know that the volume has settled past it, and an opening that finds it
		// removes it.
		if err := s.removeJournal(j.Name()); err != nil {
			return err
		}
	}
	failpoint.Here(failpoint.ReclaimJournal)
	s.leaves.trim()
	if d.pinned == nil {
		v.mu.Lock()
		d.pinned = v.replacePin()
		v.mu.Unlock()
	}
	select {
	case <-d.pinned.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := v.settleMu.LockContext(ctx); err != nil {
		return err
	}
	defer v.settleMu.Unlock()
	// What the segment's records name stays: this settling has adopted it, or an earlier one did
	// that a crash or an error ended before its root was published, and this one has found it
	// through the index.
	kept := map[*segment.File][]segment.Object{}
	for _, h := range mergeSlots(d.l.handed) {
		g := s.segments.Get(h.seg)
		if g == nil {
			continue
		}
		if _, ok := kept[g]; !ok {
			kept[g] = g.OpenObjects()
		}
		_ = s.punchBetween(g, h.from, h.to, kept[g]) // the log has it
		g.Unsettled.Add(h.from - h.to)
	}
	d.l.handed = nil
	failpoint.Here(failpoint.ReclaimPunched)
	for g := range kept {
		if err := s.retireOrSeal(v, g); err != nil {
			return err
		}
	}
	return nil
}

// abandon closes the journal of the layer; the next opening removes it, and punches what the layer
// occupied.
func (d *deadLayer) abandon() {
	if j := d.l.journal; j != nil {
		j.Close()
	}
}

// holds reports whether a segment must stay, since it may hold data that is not known of: its
// records are damaged, or a damaged volume's journal may refer to it. The next opening decides
// again.
func (s *Store) holds(g *segment.File) bool { return g.Damaged() || g.Inherited && s.hold.Load() }

// mergeSlots sorts slots and joins those that touch.
func mergeSlots(in []slots) []slots {
	sort.Slice(in, func(i, j int) bool {
		if in[i].seg != in[j].seg {
			return in[i].seg < in[j].seg
		}
		return in[i].from < in[j].from
	})
	out := in[:0]
	for _, h := range in {
		if n := len(out); n > 0 && out[n-1].seg == h.seg && out[n-1].to == h.from {
			out[n-1].to = h.to
			continue
		}
		out = append(out, h)
	}
	return out
}

// punchBetween punches the bytes [from, to), but for the objects, which are in order of block.
// It goes on after an error, and returns the first one.
func (s *Store) punchBetween(g *segment.File, from, to int64, objs []segment.Object) (first error) {
	if g.Damaged() {
		return nil // objs may be incomplete
	}
	defer g.Used.Store(0) // afterwards: a usage read meanwhile may be from before a punch
	i := sort.Search(len(objs), func(i int) bool { return int64(objs[i].Block)*disk.BlockSize >= from })
	for ; from < to; i++ {
		end, next := to, to
		if i < len(objs) {
			if at := int64(objs[i].Block) * disk.BlockSize; at < to {
				end, next = at, at+disk.RoundUp(int64(objs[i].Length), disk.BlockSize)
			}
		}
		if end > from {
			if err := g.Data.Punch(from, end-from); err != nil {
				first = cmp.Or(first, err)
				s.punchFailed.Do(func() { s.log.Warn("space cannot be freed in the file system", "error", err) })
			}
		}
		from = next
	}
	return first
}

// retireOrSeal ends an append segment whose writes have all settled: it is removed if nothing of it
// was adopted, else sealed.
func (s *Store) retireOrSeal(v *volume, g *segment.File) error {
	if s.holds(g) {
		return nil
	}
	v.commitMu.Lock() // no commit may be syncing the file when it is closed
	v.mu.Lock()
	done := g.Full && !g.Ended && g.Unsettled.Load() == 0
	if done {
		g.Ended = true
		if v.appendSegment == g {
			v.appendSegment = nil
		}
		if g.Dirty {
			v.dirty = slices.DeleteFunc(v.dirty, func(d *segment.File) bool { return d == g })
		}
	}
	v.mu.Unlock()
	v.commitMu.Unlock()
	if !done {
		return nil
	}
	if g.Blank() {
		return s.retire(g)
	}
	return s.sealSegment(g)
}

func (s *Store) sealSegment(g *segment.File) error {
	err := g.Uncover(s.fs, s.sb.ID) // a collection was cut off: what it has given up is punched below
	if errors.Is(disk.SpaceError(err), ErrNoSpace) || disk.Transient(err) {
		s.log.Warn("a segment can't be sealed", "segment", g.ID, "error", err)
		return nil
	}
	if err != nil {
		return s.fail(fmt.Errorf("seal %s: %w", segment.Name(g.ID), err))
	}
	if g.Inherited && !s.hold.Load() {
		// What a power cut or a kill left in it belongs to no journal, and so to no layer that
		// would give it back.
		_ = s.punchBetween(g, disk.BlockSize, g.Capacity, g.OpenObjects()) // the log has it
	}
	return s.finishSealing(g)
}

// finishSealing seals a segment of which nothing is left to be punched.
func (s *Store) finishSealing(g *segment.File) error {
	err := g.Seal(s.fs, s.sb.ID)
	if errors.Is(disk.SpaceError(err), ErrNoSpace) || disk.Transient(err) {
		// Its object log still lists what is in it; the next opening tries again.
		s.log.Warn("a segment can't be sealed", "segment", g.ID, "error", err)
		return nil
	}
	if err != nil {
		return s.fail(fmt.Errorf("seal %s: %w", segment.Name(g.ID), err))
	}
	failpoint.Here(failpoint.SealDone)
	if !s.index.has(g.ID) {
		return nil // the indexer marks it when it has entered what is missing
	}
	if err := s.index.markDone(g.ID); err != nil {
		s.log.Warn("a segment was not marked in the index; its objects are entered again when the store opens", "segment", g.ID, "error", err)
	}
	return nil
}

// retire removes a segment that holds nothing. No plan may refer to it any more.
func (s *Store) retire(g *segment.File) error {
	s.segments.Remove(g.ID)
	s.index.forget(g.ID)
	defer g.Data.Close()
	if err := s.fs.Remove(segment.Name(g.ID)); err != nil {
		return fmt.Errorf("retire segment: %w", err)
	}
	failpoint.Here(failpoint.RetireRemoved)
	err := s.fs.SyncDir(segment.Dir)
	if disk.Transient(err) {
		s.log.Warn("a segment that holds nothing may come back after a power cut", "segment", g.ID, "error", err)
		return nil
	}
	if err != nil {
		return s.fail(fmt.Errorf("sync %s: %w", segment.Dir, err))
	}
	return nil
}
