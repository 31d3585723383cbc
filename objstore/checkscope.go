package objstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"varve/objstore/internal/maintenance"
	"varve/objstore/internal/segment"
)

// CheckOptions say what a check reads, and how fast. The zero value is a check of everything.
type CheckOptions struct {
	// Rate is how many bytes are read per second at most; 0: no limit.
	Rate int64
	// Percent, from 1 to 99, checks the segments alone that make up about that part of the store:
	// those that were not verified for the longest time, so that 100/Percent checks have verified
	// all. 0 or 100: all segments.
	Percent int
	// Since checks those segments alone that were not verified since then. Zero: all.
	Since time.Time
	// Resume continues with a check of everything that has not come to its end, if there is one:
	// segments that it has verified are not read again, unless it has found damage in them.
	Resume bool
	// Scheduled checks give way to requests, and are shown as such.
	Scheduled bool
	// Progress, which may be nil, is called now and then.
	Progress func(CheckProgress)
}

// whole reports whether the check is one of everything. Only that walks all trees, to see whether
// every chunk is there, and reads the tails.
func (o *CheckOptions) whole() bool { return (o.Percent == 0 || o.Percent == 100) && o.Since.IsZero() }

// Validate returns an error for an option that is out of range.
func (o *CheckOptions) Validate() error {
	switch {
	case o.Rate < 0:
		return fmt.Errorf("rate of %d bytes per second: %w: want at least 1, or 0 for no limit", o.Rate, ErrInvalid)
	case o.Percent < 0 || o.Percent > 100:
		return fmt.Errorf("%d percent: %w: want 1 to 100", o.Percent, ErrInvalid)
	case o.Resume && !o.whole():
		return fmt.Errorf("%w: only a check of the whole store can be resumed, so without a percentage and a time", ErrInvalid)
	}
	return nil
}

// checkRun is a check under way, as Stat shows it.
type checkRun struct {
	begun     time.Time
	scheduled bool
	progress  atomic.Pointer[CheckProgress]
}

// scope is what a check reads of the segments.
type scope struct {
	round   uint32
	resumed *maintenance.Pass
	todo    []*segment.File // in order
	skipped int             // segments that are not read
	share   float64         // of the store that todo is, by size
}

// scope decides which segments a check reads.
func (u *upkeep) scope(o *CheckOptions, usage *usage) scope {
	all := u.segments.All()
	sizes := make(map[uint32]int64, len(all))
	total := int64(1)
	for _, g := range all {
		n, err := usage.ofSegment(g)
		if err != nil {
			n = g.Capacity // the disk does not say; reading the segment tells more
		}
		sizes[g.ID] = n
		total += n
	}
	sc := scope{}
	sc.round, sc.resumed = u.begin(o)
	sc.todo = u.choose(all, o, &sc, func(g *segment.File) int64 { return sizes[g.ID] }, total)
	chosen := int64(1)
	for _, g := range sc.todo {
		chosen += sizes[g.ID]
	}
	sc.skipped, sc.share = len(all)-len(sc.todo), float64(chosen)/float64(total)
	return sc
}

// choose returns the segments that a check reads, in the order in which it reads them. A segment in
// which damage was found is always one of them, so that no report leaves the damage out.
func (u *upkeep) choose(all []*segment.File, o *CheckOptions, sc *scope, size func(*segment.File) int64, total int64) []*segment.File {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	var damaged, others []*segment.File
	for _, g := range all {
		v, ok := u.verified[g.ID]
		at := time.Unix(v.at, 0)
		switch {
		case !ok:
			others = append(others, g)
		case v.damaged:
			damaged = append(damaged, g)
		case sc.resumed != nil && v.round == sc.round:
		case !o.Since.IsZero() && !at.Before(o.Since) && !at.After(now): // a time to come is none
		default:
			others = append(others, g)
		}
	}
	if o.Percent > 0 && o.Percent < 100 {
		slices.SortStableFunc(others, func(a, b *segment.File) int { // never verified: round 0
			return cmp.Compare(u.verified[a.ID].round, u.verified[b.ID].round)
		})
		left, n := total/100*int64(o.Percent)+total%100*int64(o.Percent)/100, 0
		for ; n < len(others) && (n == 0 || left > 0); n++ {
			left -= size(others[n])
		}
		others = others[:n]
	}
	return append(damaged, others...)
}

// verifying runs a check's reading of one segment, and remembers that the segment was verified.
func (c *checker) verifying(g *segment.File, read func() error) error {
	sealed, bytes, damage := g.Sealed(), c.report.Bytes, len(c.report.Damage)
	if err := read(); err != nil {
		return err
	}
	if sealed { // else there will be more in it
		c.deps.upkeep.note(g.ID, c.scope.round, len(c.report.Damage) > damage, c.report.Bytes-bytes)
	}
	return nil
}

// pace keeps to the check's rate before n more bytes are read, and gives way to requests if the
// schedule has begun it.
func (c *checker) pace(n int) error {
	if err := c.rate.wait(c.ctx, n); err != nil {
		return err
	}
	if !c.options.Scheduled {
		return nil
	}
	return c.pacer.pace(c.ctx, n, c.deps.catalog.requests, func() bool { return false })
}

// tellEvery is how often a slow check reports its progress.
const tellEvery = 200 * time.Millisecond

// tell reports progress.
func (c *checker) tell() {
	c.told = time.Now()
	left := int64(float64(c.total) * c.scope.share)
	p := CheckProgress{Done: c.report.Bytes, Total: max(left, c.report.Bytes)}
	if c.scope.resumed != nil { // of the whole
		before := max(c.total-left, 0)
		p.Done, p.Total = p.Done+before, p.Total+before
	}
	c.run.progress.Store(&p)
	if c.options.Progress != nil {
		c.options.Progress(p)
	}
}

func (s *Store) checkDeps() checkDeps {
	return checkDeps{
		fs: s.fs, store: s.sb.ID, catalog: s.catalog, book: &s.damageBook, segments: &s.segments, objects: s.objects,
		lookups: &s.readers.lookups, upkeep: s.upkeep, hold: s.collector.hold,
	}
}

// CheckStore looks for damage, as Check does, in a part of the store, at a rate, or going on where
// an earlier check was interrupted. One check runs at a time: others wait. An error means that the
// check could not be completed; the report has what it found before. Close ends a check.
func (s *Store) CheckStore(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	if err := o.Validate(); err != nil {
		return &CheckReport{Damage: []Damage{}}, fmt.Errorf("check: %w", err)
	}
	if err := s.checking.LockContext(ctx); err != nil { // Close waits
		return &CheckReport{Damage: []Damage{}}, fmt.Errorf("check: %w", err)
	}
	defer s.checking.Unlock()
	if s.ctx.Err() != nil {
		return nil, fmt.Errorf("check: %w", ErrClosed)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	c := newChecker(ctx, s.checkDeps(), o, s.upkeep.scope(&o, s.usage), s.stored.total())
	s.upkeep.running.Store(c.run)
	defer s.upkeep.running.Store(nil)
	began := time.Now()
	err := c.check()
	c.report.Seconds = time.Since(began).Seconds()
	if err != nil {
		s.upkeep.save()
		return &c.report, fmt.Errorf("check: %w", err)
	}
	if o.whole() {
		s.upkeep.end(&c.report)
	} else {
		s.upkeep.save()
	}
	return &c.report, nil
}
