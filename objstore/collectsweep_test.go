package objstore

import "testing"

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
