package objstore

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"varve/objstore/internal/refs"
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
		must(t, r.s.settler.waitSettled(ctx, v.volume, gen))
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
	// Quiesce ends the waiting, and Resume goes on with it.
	must(t, r.s.Quiesce())
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

// fakeItem is something to give back: it waits until it may.
type fakeItem struct {
	may       chan struct{}
	err       error
	tries     atomic.Int64
	given     atomic.Bool
	abandoned atomic.Bool
}

func (f *fakeItem) reclaim(ctx context.Context) error {
	f.tries.Add(1)
	select {
	case <-f.may:
		f.given.Store(f.err == nil)
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fakeItem) abandon() { f.abandoned.Store(true) }

// namedVolume is a volume that has a name and nothing else.
func namedVolume(name string) *volume {
	v := &volume{ref: &refs.Volume{Name: name}}
	v.name.Store(&name)
	return v
}

// A request that looked at the disk before an item was freed, and at the reclaimer afterwards, must not
// conclude that there is no room: either something is about to be freed, or the account was told that
// something was.
func TestReclaimedRoomIsNotOverlooked(t *testing.T) {
	item := &fakeItem{may: make(chan struct{})}
	close(item.may)
	var r *reclaimer
	var told atomic.Int64 // calls of returned after the item was freed
	var overlooked atomic.Bool
	r = newReclaimer(slog.New(slog.DiscardHandler), func() time.Duration { return 0 }, func() {
		if item.given.Load() && told.Add(1) == 1 && !r.returning() {
			overlooked.Store(true)
		}
	})
	v := namedVolume("a")
	r.expect(v)
	r.add(t.Context(), v, item)
	r.stop()
	if overlooked.Load() {
		t.Error("nothing is about to be freed any more, and the account was not told that something was")
	}
	if told.Load() < 2 {
		t.Error("the account is not told when nothing is about to be freed any more: who waits for that waits on")
	}
}

// Each volume's items are given back in their order and without regard to other volumes; one that
// fails is in nobody's way; what stop has interrupted is begun again by start, or left to the next
// opening.
func TestReclaimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var returned atomic.Int64
		r := newReclaimer(slog.New(slog.DiscardHandler), func() time.Duration { return time.Since(began) }, func() { returned.Add(1) })
		a, b := namedVolume("a"), namedVolume("b")
		item := func() *fakeItem { return &fakeItem{may: make(chan struct{})} }
		ctx, cancel := context.WithCancel(t.Context())
		first, second, other := item(), item(), item()
		for _, c := range []struct {
			v *volume
			i *fakeItem
		}{{a, first}, {a, second}, {b, other}} {
			r.expect(c.v)
			if !r.returning() {
				t.Error("nothing is expected to come back")
			}
			r.add(ctx, c.v, c.i)
		}
		close(second.may)
		close(other.may)
		must(t, r.wait(ctx, b, nil))
		synctest.Wait()
		if !other.given.Load() || second.tries.Load() > 0 || r.idle(a) || returned.Load() != 2 {
			t.Errorf("b: given %v; a: second tried %d times, idle %v; %d returns", other.given.Load(), second.tries.Load(), r.idle(a), returned.Load())
		}
		time.Sleep(reclaimPatience)
		if r.returning() {
			t.Error("a reader is waited for without end")
		}
		cancel()
		r.stop()
		if r.idle(nil) || first.given.Load() {
			t.Error("what was interrupted is gone")
		}
		ended := make(chan struct{})
		close(ended)
		if err := r.wait(t.Context(), nil, ended); !errors.Is(err, ErrClosed) {
			t.Errorf("wait at the end: %v", err)
		}
		first.err = errors.New("no")
		close(first.may)
		r.start(t.Context())
		must(t, r.wait(t.Context(), nil, nil))
		r.stop()
		if first.tries.Load() != 2 || !second.given.Load() || r.left.Load() != 0 || returned.Load() != 6 {
			t.Errorf("first tried %d times, second given %v, %d left, %d returns", first.tries.Load(), second.given.Load(), r.left.Load(), returned.Load())
		}
		last := item()
		ctx, cancel = context.WithCancel(t.Context())
		r.expect(a)
		r.add(ctx, a, last)
		cancel()
		r.stop()
		if r.abandon(); !last.abandoned.Load() {
			t.Error("nothing is left to the next opening")
		}
	})
}

// Who sees that a layer has settled, and waits for its room, waits also if the settler has not
// queued the layer yet.
func TestReclaimerWaitsForWhatIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReclaimer(slog.New(slog.DiscardHandler), func() time.Duration { return 0 }, func() {})
		a, b := namedVolume("a"), namedVolume("b")
		r.expect(a)
		must(t, r.wait(t.Context(), b, nil))
		for _, v := range []*volume{a, nil} {
			brief, end := context.WithTimeout(t.Context(), time.Second)
			if err := r.wait(brief, v, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("wait before the layer is queued: %v", err)
			}
			end()
		}
		waited := make(chan error)
		go func() { waited <- r.wait(t.Context(), nil, nil) }()
		item := &fakeItem{may: make(chan struct{})}
		close(item.may)
		r.add(t.Context(), a, item)
		if err := <-waited; err != nil || !item.given.Load() {
			t.Errorf("waited: %v; given back %v", err, item.given.Load())
		}
		r.stop()
	})
}
