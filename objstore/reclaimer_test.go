package objstore

import (
	"context"
	"testing"
	"time"
)

// A plan that is held on one volume keeps the room that it reads, and nobody else's.
func TestHeldPlanKeepsItsOwnRoomOnly(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r := newRig(t, Options{})
	a, b := r.volume("a", 16<<20), r.volume("b", 16<<20)
	settle := func(v *Volume, seed uint64) {
		t.Helper()
		for range 3 { // overwritten: what is given back
			r.write(v, randomBytes(seed, 1<<20), 0)
			seed++
		}
		gen, err := v.freeze()
		must(t, err)
		must(t, r.s.waitSettled(ctx, v.volume, gen))
	}
	r.write(a, randomBytes(1, 4096), 8<<20)
	var p Plan
	must(t, a.Plan(8<<20, 4096, &p))
	settle(a, 10)
	settle(b, 20)
	if err := r.s.waitReclaimed(ctx, b.volume); err != nil {
		t.Fatalf("b gives nothing back while a plan is held on a: %v", err)
	}
	if g := b.appendSegment; g != nil && g.Unsettled.Load() > 0 {
		t.Errorf("%d bytes of b's append segment are not given back", g.Unsettled.Load())
	}
	if g := a.appendSegment; g == nil || g.Unsettled.Load() == 0 {
		t.Error("a's append segment is given back while a plan is held on it")
	}
	// A snapshot of b does not wait for a.
	_, err := r.s.CreateSnapshot(ctx, "b", "s")
	must(t, err)
	_, err = r.s.WaitSnapshot(ctx, "b", "s")
	must(t, err)
	brief, end := context.WithTimeout(ctx, 20*time.Millisecond)
	defer end()
	if err := r.s.waitReclaimed(brief, a.volume); err == nil {
		t.Error("nothing of a is waited for")
	}
	// Quiet ends the waiting, and Resume goes on with it.
	must(t, r.s.Quiet())
	r.s.Resume()
	buf := make([]byte, 4096)
	must(t, readPieces(&p, buf))
	if string(buf) != string(randomBytes(1, 4096)) {
		t.Error("a plan that is held reads something else")
	}
	a.Release(&p)
	must(t, r.s.waitReclaimed(ctx, nil))
	if g := a.appendSegment; g != nil && g.Unsettled.Load() > 0 {
		t.Errorf("%d bytes of a's append segment are not given back", g.Unsettled.Load())
	}
}
