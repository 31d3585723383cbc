package objstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

const (
	// shortestHole is the default of Options.shortestHole: 16 KiB holes alternating with data made
	// 8,192 extents in a segment, and a file system keeps those of open files in memory.
	shortestHole = 64 << 10
	// mostHoles bounds the holes that are punched into a segment at once.
	mostHoles = 1024
	// wholeExtents is the shortest hole where the file system frees extents as a whole (btrfs): a
	// hole of that length has some in it, of whatever writes, or is at the end of one at least.
	wholeExtents = 4 * MaxRequest
	// roomyFilter is up to how many bytes a filter takes two bytes for each object: one in a
	// thousand of the dead passes for alive then, instead of three in a hundred, each of which
	// splits a hole.
	roomyFilter = 64 << 20
	// punchCost is what punching a hole counts for the rate, in bytes: it takes about as long as
	// reading them.
	punchCost = 64 << 10
	// leastDead is what is dead in a segment at least, in bytes, or leastShare-th part of its
	// objects, for a cycle that the store has begun itself to write its list anew.
	leastDead  = 1 << 20
	leastShare = 16
	// smallList is up to how many bytes of a list a cycle that somebody has asked for writes the
	// list anew for any dead object. For a longer list something has to come of it: it is written
	// twice, as the object log and as the footer, and so at most 2*listShare bytes are written for
	// each that is freed. What has passed the last filter by mistake is often less than that.
	smallList = 64 << 10
	listShare = 2
)

// sweep does step 6 for all segments that are sealed.
func (y *cycle) sweep(ctx context.Context) error {
	open, err := y.endOpen(ctx)
	if err != nil {
		return err
	}
	all := slices.DeleteFunc(y.s.segments.All(), func(g *segment.File) bool { return !g.Sealed() && !g.Shortened() })
	y.enter(CollectSweeping, int64(len(all)))
	y.report.Segments = max(y.report.Segments, len(all)+open) // those before this round have looked at the same
	for _, g := range all {
		if err := y.mayFree(); err != nil {
			return err
		}
		if !y.s.sealer.holds(g) {
			if err := y.sweepSegment(ctx, g); err != nil {
				return err
			}
		}
		y.progress(1)
	}
	return nil
}

// sweepSegment takes what is dead out of a segment. An error ends the cycle.
func (y *cycle) sweepSegment(ctx context.Context, g *segment.File) error {
	if g.Shortened() { // an earlier cycle had no room to go on
		return y.unlessFull(y.punchAndSeal(ctx, g, []segment.Span{{From: disk.BlockSize, To: g.Capacity}}))
	}
	footer := g.FooterSize()
	if err := y.pace(ctx, footer); err != nil {
		return err
	}
	found, err := y.surveyor.Survey(g, y.filter.Has, y.limits)
	if disk.Damaged(err) {
		y.s.objects.NoteDamage(g, err)
	}
	if damagedOrBusy(err) {
		return nil
	}
	if err != nil {
		return err
	}
	y.report.Read += footer
	switch {
	case y.dryRun:
		return y.foretell(g, found)
	case found.AllDead():
		y.allDead = append(y.allDead, g) // counted when it is gone
	case y.noRoom != nil || !y.worthFreeing(g, footer, found.Bytes()):
		y.report.Kept += found.Kept + found.Bytes()
	default:
		if err := y.pace(ctx, 2*footer); err != nil {
			return err
		}
		if err := y.unlessFull(y.freeObjects(ctx, g, found)); err != nil {
			return err
		}
		found.Dead = nil // or it is not sealed, and not looked at again
	}
	return y.weigh(g, found)
}

// worthFreeing reports whether so many dead bytes are worth the writing of a segment's list, of
// which the length is given in bytes too.
func (y *cycle) worthFreeing(g *segment.File, list, dead int64) bool {
	if y.full {
		return dead > 0 && (list <= smallList || dead >= list/listShare)
	}
	chunks, others := g.Stored()
	return dead > 0 && (dead >= leastDead || dead >= (chunks+others)/leastShare)
}

// unlessFull returns an error that ends the cycle. After ErrNoSpace the segment is in order, and
// room may come from unlinking others.
func (y *cycle) unlessFull(err error) error {
	if errors.Is(err, ErrNoSpace) {
		y.noRoom = err
		return nil
	}
	return err
}

// count adds what was found in a segment, and is taken out of it, to the report.
func (y *cycle) count(g *segment.File, found *segment.Shrinking) {
	y.report.Dead += int64(len(found.Dead))
	y.report.Kept += found.Kept
	if len(found.Dead) > 0 {
		y.swept[g.ID] = true
		y.report.Swept = len(y.swept)
	}
}

// freeObjects takes objects out of a segment. From the moment at which they are out of the list it
// goes on whatever becomes of ctx.
func (y *cycle) freeObjects(ctx context.Context, g *segment.File, found *segment.Shrinking) error {
	s := y.s
	before, err := s.usage.file(segment.Name(g.ID))
	if err != nil {
		return err
	}
	chunks, others := g.Stored()
	err = g.Shrink(s.fs, s.sb.ID, found, y.filter.Has, y.limits)
	nowChunks, nowOthers := g.Stored()
	s.stored.add(nowChunks-chunks, nowOthers-others)
	if err := y.trouble(g, err); err != nil {
		return err
	}
	y.count(g, found)
	if len(found.Dead) == 0 {
		return nil
	}
	y.report.Written += g.ObjectLogSize()
	if err := y.punchAndSeal(ctx, g, found.Holes); err != nil {
		return err
	}
	y.report.Written += g.FooterSize()
	if after, err := s.usage.file(segment.Name(g.ID)); err == nil {
		y.addFreed(before - after)
	}
	s.recorder.forget(g, found.Dead)
	return nil
}

// trouble returns what becomes of the cycle, and of the store, after an error of a segment's list:
// if there was no room, or nothing happened, the segment is in order, and the cycle ends. After any
// other error what a crash would leave is unknown.
func (y *cycle) trouble(g *segment.File, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(disk.SpaceError(err), ErrNoSpace), disk.Transient(err):
		return y.s.spaceError(fmt.Errorf("shorten the object list of %s: %w", segment.Name(g.ID), err))
	}
	return y.s.fail(fmt.Errorf("shorten the object list of %s: %w", segment.Name(g.ID), err))
}

// punchAndSeal gives holes of a segment back whose list does not name anything in them.
func (y *cycle) punchAndSeal(ctx context.Context, g *segment.File, holes []segment.Span) error {
	s := y.s
	if err := y.trouble(g, g.Uncover(s.fs, s.sb.ID)); err != nil {
		return err
	}
	if err := y.waitLookups(ctx); err != nil {
		return err // a later cycle, or the next opening, goes on here
	}
	kept := g.OpenObjects()
	for _, h := range holes {
		_ = y.pace(ctx, punchCost) // if ctx has ended, it goes on without pauses
		if err := s.sealer.punch(g, h.From, h.To, kept); err != nil {
			// A later cycle, or the next opening, goes on here.
			return s.spaceError(fmt.Errorf("punch %s: %w", segment.Name(g.ID), err))
		}
	}
	failpoint.Here(failpoint.CollectPunched)
	s.space.returned()
	return s.sealer.sealPunched(g)
}

// waitLookups waits for goroutines that have looked objects up by their hash, and may be about to
// read them.
func (y *cycle) waitLookups(ctx context.Context) error {
	select {
	case <-y.s.readers.lookups.Replace().Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
