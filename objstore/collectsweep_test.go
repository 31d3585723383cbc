package objstore

import (
	"testing"

	"varve/objstore/internal/segment"
)

// A long list is not written anew for a few dead objects, nor does a dry run say that they would be
// freed; for more it is.
func TestCollectLeavesFewInLongList(t *testing.T) {
	r := newRig(t, collectAll(Options{SegmentSize: 16 << 20}))
	v := r.volume("a", 64<<20)
	for i := range int64(16) {
		r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
	}
	must(t, r.s.Settle(t.Context()))
	kill := func(chunks int) {
		t.Helper()
		must(t, v.Zero(4<<20, int64(chunks)*4096))
		must(t, r.s.Settle(t.Context()))
		must(t, r.s.waitReclaimed(t.Context(), nil))
	}
	kill(2)
	for _, dry := range []bool{true, false} {
		report, err := r.s.Collect(t.Context(), CollectOptions{DryRun: dry})
		must(t, err)
		if report.Freed >= 1<<20 || report.Kept < 2*4096 || report.Written > 64<<10 {
			t.Errorf("two chunks are dead among 4,096 (dry run: %v): %+v", dry, report)
		}
	}
	kill(64)
	if report := r.collect(); report.Freed < 64*4096 || report.Written < 64<<10 {
		t.Errorf("64 chunks are dead: %+v", report)
	}
}

// A segment that each pass takes objects out of is counted once; one of which nothing is left counts
// as unlinked alone. A dry run says the same.
func TestCollectCountsSegmentsOnce(t *testing.T) {
	for _, whole := range []bool{false, true} {
		r := newRig(t, collectAll(Options{CollectMemory: 3 << 10}))
		v := r.volume("a", 64<<20)
		for i := range int64(12) {
			r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
		}
		must(t, r.s.Settle(t.Context()))
		must(t, v.Close())
		r.end("closed")
		r.open(nil) // all is sealed
		v = r.volume("a", 64<<20)
		if whole {
			r.o.CollectMemory = 0
			must(t, v.Zero(0, 12<<20))
		} else {
			for i := range int64(12) {
				must(t, v.Zero(i<<20, 512<<10))
			}
		}
		must(t, r.s.Settle(t.Context()))
		must(t, v.Close())
		r.end("closed")
		r.open(nil)
		versions := map[*segment.File]uint64{}
		for _, g := range sealedSegments(r.s) {
			versions[g] = g.Version()
		}
		dry, err := r.s.Collect(t.Context(), CollectOptions{DryRun: true})
		must(t, err)
		report := r.collect()
		swept := 0
		for g, before := range versions {
			if g.Version() > before && (!whole || r.s.segments.Get(g.ID) == g) {
				swept++
			}
		}
		if (report.Passes < 2) != whole || report.Swept != swept || dry.Swept != swept || report.Retired != dry.Retired {
			t.Errorf("%d of %d segments were swept, all of others is dead: %v; the report says %+v, the dry run %+v", swept, len(versions), whole, report, dry)
		}
	}
}
