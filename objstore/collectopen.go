package objstore

import (
	"context"
	"fmt"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// Objects die in segments that are not sealed, too: in the append segment of a volume that is
// written over and over, and in the one that settling copies to. If a good part of such a segment
// is dead, its owner appends to another one from then on, and it is sealed and swept like the
// others.

// endOpen ends open segments with a good part of dead objects. A dry run counts what that would
// free, once all of it has settled, and looked is how many segments that are.
func (y *cycle) endOpen(ctx context.Context) (looked int, err error) {
	for _, g := range y.s.segments.All() {
		if g.Sealed() || g.Shortened() || g.Damaged() {
			continue
		}
		dead, worth := y.worthEnding(g)
		switch {
		case !worth:
			y.report.Kept += dead
			continue
		case y.dryRun:
			looked++
			if err := y.foretell(g, g.SurveyOpen(y.filter.Has, y.limits)); err != nil {
				return looked, err
			}
			continue
		}
		if err := y.s.endSegment(ctx, g); err != nil {
			return looked, err
		}
		if err := g.Unsealed.Load(); err != nil {
			y.unfreed = fmt.Errorf("seal %s: %w", segment.Name(g.ID), *err)
		}
	}
	return looked, nil
}

// worthEnding returns how many bytes of an open segment are dead, and whether that is enough: as
// much as makes a cycle that the store has begun itself write a sealed segment's list anew.
func (y *cycle) worthEnding(g *segment.File) (dead int64, worth bool) {
	all := int64(0)
	for _, o := range g.OpenObjects() {
		n := disk.RoundUp(int64(o.Length), disk.BlockSize)
		if all += n; !y.filter.Has(&o.Hash) {
			dead += n
		}
	}
	return dead, dead >= leastDead || dead > all/leastShare
}

// endSegment makes the owner of an append segment continue in another one, and seals it, unless
// something in it has not settled: then that settling does so.
func (s *Store) endSegment(ctx context.Context, g *segment.File) error {
	if g.Unsealed.Load() != nil {
		if s.sealer.holds(g) {
			return nil
		}
		return s.sealer.seal(g) // there may be room by now
	}
	if s.appendPool.remove(g) {
		g.Full = true // no other goroutine uses it
		return s.sealer.seal(g)
	}
	if in := &s.evacuator.appenders; in.has(g) {
		in.leave(g)
		return s.sealer.sealFilled(in)
	}
	if in := &s.layerSettler.appenders; in.has(g) {
		return s.settler.do(ctx, func(context.Context) error {
			in.leave(g)
			return s.sealer.sealFilled(in)
		})
	}
	for _, v := range s.catalog.all() {
		if err := v.endAppendSegment(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

// endAppendSegment ends a segment that is the volume's append segment.
func (v *volume) endAppendSegment(ctx context.Context, g *segment.File) error {
	v.mu.Lock()
	ours := v.appendSegment == g
	v.mu.Unlock()
	if !ours {
		return nil
	}
	if err := v.settleMu.LockContext(ctx); err != nil {
		return err
	}
	defer v.settleMu.Unlock()
	v.mu.Lock()
	ours = v.appendSegment == g && v.writable && !g.Ended
	if ours {
		v.leaveSegment()
	}
	v.mu.Unlock()
	if !ours {
		return nil
	}
	return v.s.sealer.endOf(v, g)
}
