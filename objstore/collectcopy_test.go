package objstore

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// aged makes a volume of random writes of several lengths, a part of which live in snapshots that are
// deleted, over several openings.
func aged(t *testing.T, o Options, seed uint64) *rig {
	t.Helper()
	r := newRig(t, o)
	rng := newRand(seed)
	for range 4 {
		v := r.volume("a", 32<<20)
		for range 3 {
			for range 60 {
				r.write(v, randomBytes(rng.Uint64(), 4096<<rng.IntN(6)), rng.Int64N(7000)*4096)
			}
			_, err := r.s.CreateSnapshot(t.Context(), "a", "s")
			must(t, err)
			must(t, r.s.Settle(t.Context()))
			must(t, r.s.DeleteSnapshot(t.Context(), "a", "s"))
		}
		must(t, v.Close())
		r.end("closed")
		r.open(nil)
	}
	v := r.volume("a", 32<<20)
	r.write(v, randomBytes(rng.Uint64(), 2<<20), 0)
	must(t, r.s.Settle(t.Context()))
	r.write(v, randomBytes(rng.Uint64(), 1<<20), 0)
	must(t, r.s.Settle(t.Context()))
	return r
}

// When all has settled, a dry run says within 1 % what a collection then frees: in sealed segments, in
// open ones, by punching, copying and unlinking.
func TestDryRunIsRight(t *testing.T) {
	for name, o := range map[string]Options{"every hole": collectAll(Options{}), "long holes": {CollectRate: -1}} {
		t.Run(name, func(t *testing.T) {
			r := aged(t, o, 3)
			used := r.usedBy()
			dry, err := r.s.Collect(t.Context(), CollectOptions{DryRun: true})
			must(t, err)
			if now := r.usedBy(); now != used {
				t.Errorf("a dry run has changed what is used from %d to %d", used, now)
			}
			report := r.collect()
			t.Logf("dry: %+v\nreal: %+v", dry, report)
			if diff := dry.Freed - report.Freed; report.Freed < 4<<20 || max(diff, -diff) > report.Freed/100 {
				t.Errorf("a dry run has said %d bytes, and %d were freed", dry.Freed, report.Freed)
			}
			if dry.Retired != report.Retired {
				t.Errorf("a dry run has said that %d segments would go, and %d went", dry.Retired, report.Retired)
			}
			if now := r.usedBy(); used-now < report.Freed*99/100 {
				t.Errorf("%d bytes were freed, and what is used went from %d to %d", report.Freed, used, now)
			}
			r.checkCollectedObjects()
		})
	}
}

// allDead returns the sealed segments in which nothing is alive, and their objects.
func allDead(t *testing.T, s *Store) (dead []segment.Object, gone map[uint32]bool) {
	t.Helper()
	gone = map[uint32]bool{}
	live := reachable(t, s)
	for _, g := range sealedSegments(s) {
		objs, err := g.Objects()
		must(t, err)
		if !slices.ContainsFunc(objs, func(o segment.Object) bool { return live[o.Hash] }) {
			gone[g.ID] = true
			dead = append(dead, objs...)
		}
	}
	return dead, gone
}

// A segment in which nothing is alive is unlinked, and the index does not know its objects any more;
// that needs no room: where there is none to write a shorter list, it makes some for that.
func TestCollectUnlinksFirst(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	must(t, r.s.Close())
	var full atomic.Bool
	r.open(func(op vfs.Op) error {
		switch {
		case op.Kind == vfs.OpCreate && strings.HasSuffix(op.Name, ".dir.new") && full.Load():
			return syscall.ENOSPC
		case op.Kind == vfs.OpRemove && strings.HasSuffix(op.Name, ".seg"):
			full.Store(false)
		}
		return nil
	})
	v := r.volume("a", 64<<20)
	for i := range int64(8) {
		r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
	}
	must(t, r.s.Settle(t.Context()))
	for i := range int64(15) { // all but some of the last MiB
		must(t, v.Zero(i<<19, 1<<19))
	}
	must(t, r.s.Settle(t.Context()))
	var dead []segment.Object
	gone := map[uint32]bool{}
	for try := 0; len(gone) == 0; try++ { // segments are sealed behind the settling
		if try == 6000 {
			t.Fatal("no segment is all dead; the test shows nothing")
		}
		time.Sleep(10 * time.Millisecond)
		dead, gone = allDead(t, r.s)
	}
	full.Store(true)
	report := r.collect()
	if report.Retired < len(gone) || report.Swept < len(gone) {
		t.Errorf("%d segments have nothing alive: %+v", len(gone), report)
	}
	for id := range gone {
		if _, err := r.mem.Used(segment.Name(id)); err == nil {
			t.Errorf("%s is there", segment.Name(id))
		}
	}
	for i := range dead {
		if _, ok := r.s.index.Get(&dead[i].Hash); ok {
			t.Fatalf("the index knows %v, which is gone", dead[i].Hash)
		}
	}
	r.checkCollectedObjects()
}

// blindIndex is an index that knows nothing.
type blindIndex struct{ index.Index }

func (blindIndex) Get(*[32]byte) (index.Location, bool) { return index.Location{}, false }

// A search that begins before an object is copied to a segment, and looks where it was when it is
// there no more, begins again.
func TestSearchBesideMove(t *testing.T) {
	r, data := holding(t)
	r.end("closed")
	r.o.Index = blindIndex{index.NewMem()}
	var armed atomic.Bool
	var evacuate func()
	r.open(func(op vfs.Op) error {
		if op.Kind == vfs.OpRead && strings.HasSuffix(op.Name, ".seg") && armed.CompareAndSwap(true, false) {
			evacuate()
		}
		return nil
	})
	var chunk merkle.Hash
	segs := sealedSegments(r.s)
	for _, g := range segs {
		objs, err := g.Objects()
		must(t, err)
		for _, o := range objs {
			if o.Kind == merkle.KindChunk {
				chunk = o.Hash
			}
		}
	}
	evacuate = func() {
		done := make(chan error, 1)
		go func() {
			for _, g := range segs {
				if _, _, err := r.s.evacuator.empty(t.Context(), g, alive); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	armed.Store(true)
	if _, _, err := r.s.objects.Locate(t.Context(), &chunk, merkle.KindChunk); err != nil {
		t.Errorf("an object that is moved meanwhile: %v", err)
	}
	if armed.Load() {
		t.Error("nothing was searched; the test shows nothing")
	}
	if err := r.s.evacuator.unlink(t.Context(), &evacuated{}); err != nil && !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	r.holdsAll("moved", data)
}

// While the index is rebuilt, what is collected is removed from the next one too.
func TestCollectBesideReindex(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	for i := range int64(6) {
		r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
	}
	must(t, r.s.Settle(t.Context()))
	next := newStoreIndex(index.NewMem())
	entered := map[merkle.Hash]bool{}
	for _, g := range r.s.segments.All() {
		objs, err := g.Objects()
		must(t, err)
		var entries []index.Entry
		for _, o := range objs {
			entries = append(entries, index.Entry{Hash: o.Hash, Location: indexed(segment.At(g.ID, o.Block))})
			entered[o.Hash] = true
		}
		must(t, next.put(entries))
	}
	r.s.index.next.Store(next)
	defer r.s.index.next.Store(nil)
	for i := range int64(6) { // a half of each
		must(t, v.Zero(i<<20, 1<<19))
	}
	must(t, r.s.Settle(t.Context()))
	r.collect()
	listed := map[merkle.Hash]bool{}
	for _, g := range r.s.segments.All() {
		objs, err := g.Objects()
		must(t, err)
		for _, o := range objs {
			listed[o.Hash] = true
		}
	}
	gone := 0
	for h := range entered {
		if listed[h] {
			continue
		}
		gone++
		if loc, ok := next.Get(&h); ok {
			t.Fatalf("the next index has %v at %v, which was collected", h, loc)
		}
	}
	if gone < 500 {
		t.Errorf("only %d objects were collected", gone)
	}
}

// A collection reads the list of each sealed segment once, to find out what is dead there and whether
// what lives is to be copied.
func TestCollectReadsListsOnce(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	for i := range int64(12) {
		r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
	}
	must(t, r.s.Settle(t.Context()))
	for i := range int64(12) {
		must(t, v.Zero(i<<20, 1<<18))
	}
	must(t, r.s.Settle(t.Context()))
	r.collect() // ends the open segments
	must(t, r.s.Close())
	var mu sync.Mutex
	lists, at := map[string]int{}, map[string]int64{} // times that they were read, and where they lie
	r.open(func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if begin, sealed := at[op.Name]; sealed && op.Kind == vfs.OpRead && op.Off == begin {
			lists[op.Name]++
		}
		return nil
	})
	mu.Lock()
	for _, g := range sealedSegments(r.s) {
		at[segment.Name(g.ID)] = g.Capacity
	}
	mu.Unlock()
	if report := r.collect(); report.Segments < 2 || report.Retired > 0 {
		t.Fatalf("%+v; the test shows nothing", report)
	}
	mu.Lock()
	defer mu.Unlock()
	for name, n := range lists {
		if n != 1 {
			t.Errorf("the list of %s was read %d times", name, n)
		}
	}
	if len(lists) < 2 {
		t.Errorf("lists were read: %v", lists)
	}
}
