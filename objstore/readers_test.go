package objstore

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// waiting calls readers.wait and returns what becomes of it.
func waiting(s *Store) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.readers.wait(context.Background()) }()
	return done
}

// heldUp fails unless readers.wait waits until release is called.
func heldUp(t *testing.T, s *Store, reader string, release func()) {
	t.Helper()
	done := waiting(s)
	select {
	case err := <-done:
		t.Errorf("%s does not hold up who takes places away: %v", reader, err)
		release()
		return
	case <-time.After(20 * time.Millisecond):
	}
	release()
	must(t, <-done)
}

// Every plan that is held is waited for: of a volume, of a snapshot before and after it has
// settled, of a root, of a volume that is being deleted, and of a view that was closed.
func TestReadersWaitsForPlans(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	plan := func(im Image) *Plan {
		t.Helper()
		var p Plan
		must(t, planLoaded(ctx, im, 0, 4096, &p))
		return &p
	}
	r.write(v, randomBytes(1, 4096), 0)
	_, err := r.s.CreateSnapshot(ctx, "a", "s")
	must(t, err)
	snap, err := r.s.OpenSnapshot("a", "s")
	must(t, err)
	p := plan(snap)
	heldUp(t, r.s, "a plan of a snapshot that has not settled", func() { snap.Release(p) })
	must(t, r.s.Settle(ctx))

	p = plan(v)
	heldUp(t, r.s, "a plan of a volume", func() { v.Release(p) })
	p = plan(snap)
	heldUp(t, r.s, "a plan of a snapshot that has settled", func() { snap.Release(p) })
	root, err := r.s.OpenRoot(snap.Root())
	must(t, err)
	p = plan(root)
	heldUp(t, r.s, "a plan of a root", func() { root.Release(p) })
	p = plan(root)
	must(t, root.Close())
	heldUp(t, r.s, "a plan of a view that was closed", func() { root.Release(p) })
	p = plan(snap)
	must(t, snap.Close())
	heldUp(t, r.s, "a plan of a snapshot that was closed", func() { snap.Release(p) })

	b := r.volume("b", 1<<20)
	r.write(b, randomBytes(2, 4096), 0)
	p = plan(b)
	must(t, b.Close())
	deleted := make(chan error, 1)
	go func() { deleted <- r.s.DeleteVolume(ctx, "b") }()
	for gone := false; !gone; time.Sleep(time.Millisecond) {
		gone = r.s.catalog.gone(b.volume)
	}
	heldUp(t, r.s, "a plan of a volume that is being deleted", func() { b.Release(p) })
	must(t, <-deleted)
	heldUp(t, r.s, "a look-up by hash", r.s.readers.lookups.Hold().Release)
}

// Between the moment at which a volume leaves the catalog and the moment at which it makes no plans
// any more, its plans are waited for too.
func TestReadersWaitsForVolumeThatLeaves(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	r.write(v, randomBytes(1, 4096), 0)
	r.s.catalog.mu.Lock()
	delete(r.s.catalog.volumes, v.ref.ID)
	r.s.readers.leave(v.volume)
	r.s.catalog.mu.Unlock()
	var p Plan
	must(t, v.Plan(0, 4096, &p))
	heldUp(t, r.s, "a plan of a volume that leaves", func() { v.Release(&p) })
	v.mu.Lock()
	r.s.readers.left(v.volume, v.replacePin())
	v.mu.Unlock()
	if len(r.s.readers.leaving) > 0 {
		t.Error("a volume that has left is remembered")
	}
	must(t, <-waiting(r.s))
	r.s.catalog.mu.Lock()
	r.s.catalog.volumes[v.ref.ID] = v.volume // for the end of the test
	r.s.catalog.mu.Unlock()
}

// A plan reads what it was made for until it is released, while the volume that it is of is
// deleted: its data counts on an older pin than the one that the deletion replaces.
func TestPlanHeldOverDeletion(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	data := randomBytes(2, 4096)
	r.write(v, randomBytes(1, 4096), 0)
	gen, err := v.freeze()
	must(t, err)
	r.write(v, data, 8192)
	var p Plan // as a check makes it, which looks at the tail of a volume that nobody has open
	must(t, v.Plan(8192, 4096, &p))
	must(t, r.s.settler.waitSettled(ctx, v.volume, gen))
	for replaced := false; !replaced; time.Sleep(time.Millisecond) { // reclaiming the settled layer waits for the plan
		v.mu.Lock()
		replaced = v.pin != p.pin
		v.mu.Unlock()
	}
	must(t, v.Close())
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := r.s.DeleteVolume(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the deletion of a volume does not wait for a plan that is held: %v", err)
	}
	got := make([]byte, len(data))
	must(t, readPieces(&p, got))
	if string(got) != string(data) {
		t.Errorf("a plan that is held reads something else: zeroes %v", disk.AllZero(got))
	}
	v.Release(&p)
}

// Whoever reads at a place that was looked up holds a pin during the read: settling, of objects and
// of chunks that it compares or changes in part; reads of tree nodes; a check; the indexer.
func TestReadsHoldAPin(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	data := randomBytes(1, 4*4096)
	r.write(v, data, 0)
	must(t, r.s.Settle(ctx))
	must(t, v.Close())
	r.end("closed")

	var read atomic.Int64 // reads of segments
	var watched atomic.Pointer[Store]
	r.o.Index = index.NewMem()
	r.open(func(op vfs.Op) error {
		if s := watched.Load(); op.Kind == vfs.OpRead && strings.HasPrefix(op.Name, segment.Dir) && s != nil {
			read.Add(1)
			if !held(s) {
				t.Errorf("a read of %s without a pin", op.Name)
			}
		}
		return nil
	})
	store := r.s
	watched.Store(store)
	expectReads := func(what string, f func()) {
		t.Helper()
		read.Store(0)
		if f(); read.Load() == 0 {
			t.Errorf("%s reads nothing", what)
		}
	}
	v = r.volume("a", 1<<20)
	expectReads("settling what the store has, and a part of a chunk", func() {
		r.write(v, data[:2*4096], 8*4096)
		r.write(v, randomBytes(2, 512), 3*4096)
		must(t, store.Settle(ctx))
	})
	b := r.volume("b", 1<<20)
	expectReads("settling a tree that the store has", func() {
		r.write(b, data, 0)
		must(t, store.Settle(ctx))
	})
	expectReads("a check", func() {
		report, err := store.Check(ctx, nil)
		must(t, err)
		if report.Damaged() > 0 {
			t.Errorf("damage: %v", report.Damage)
		}
	})
	expectReads("a tree node", func() {
		root := v.base.root
		_, err := store.objects.FreshNode(t.Context(), root.Top, root.Depth)
		must(t, err)
	})
	expectReads("the indexer", func() {
		for _, g := range store.segments.All() {
			_, err := store.indexer.enterSegment(ctx, g)
			must(t, err)
		}
	})
}

// held reports whether anybody reads places.
func held(s *Store) bool {
	p := s.readers.lookups.Replace()
	return !isDone(p)
}

// A view counts as in use from the moment at which its name was looked up: what is deleted while
// its root object is read stays a root.
func TestViewIsRegisteredBeforeItsRootIsRead(t *testing.T) {
	ctx := t.Context()
	for _, by := range []string{"name", "root"} {
		r := newRig(t, Options{})
		v := r.volume("a", 1<<20)
		r.write(v, randomBytes(1, 4096), 0)
		_, err := r.s.CreateSnapshot(ctx, "a", "s")
		must(t, err)
		must(t, r.s.Settle(ctx))
		root := r.s.Roots()[0]
		must(t, v.Close())
		r.end("closed")
		var watched atomic.Pointer[Store]
		var seen atomic.Int64
		r.open(func(op vfs.Op) error {
			s := watched.Load()
			if op.Kind != vfs.OpRead || !strings.HasPrefix(op.Name, segment.Dir) || s == nil {
				return nil
			}
			_, views := s.catalog.planners()
			want, err := merkle.ParseHash(root)
			must(t, err)
			if len(views) != 1 || views[0].root != want {
				t.Errorf("by %s: the root object is read for a view that nobody knows", by)
			}
			seen.Add(1)
			return nil
		})
		watched.Store(r.s)
		var w *View
		if by == "name" {
			w, err = r.s.OpenSnapshot("a", "s")
		} else {
			w, err = r.s.OpenRoot(root)
		}
		must(t, err)
		if seen.Load() == 0 {
			t.Errorf("by %s: no root object was read", by)
		}
		watched.Store(nil)
		must(t, w.Close())
	}
}

// A plan that meets a place in a segment that was retired has the leaf loaded again.
func TestPlanOfRetiredSegment(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	data := randomBytes(1, 4096)
	r.write(v, data, 0)
	must(t, r.s.Settle(t.Context()))
	var p Plan
	must(t, planLoaded(t.Context(), v, 0, 4096, &p))
	g := p.Pieces[0].seg
	v.Release(&p)
	r.s.segments.Remove(g.ID)
	if err := v.Plan(0, 4096, &p); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("the plan of a retired segment: %v, want %v", err, ErrNotLoaded)
	}
	if l := v.base.leaf(0); l != nil {
		t.Error("the leaf with the old place is still in memory")
	}
	r.s.segments.Add(g)
	must(t, planLoaded(t.Context(), v, 0, 4096, &p))
	got := make([]byte, len(data))
	must(t, readPieces(&p, got))
	v.Release(&p)
	if string(got) != string(data) {
		t.Error("the plan reads something else")
	}
}

// A check that has read a segment's list does not report what was given up since: neither the
// segment, nor a place in it.
func TestCheckOfPlaceThatWasGivenUp(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	r.write(v, randomBytes(1, 4096), 0)
	must(t, r.s.Settle(t.Context()))
	g := r.s.segments.All()[0]
	objs, err := g.Objects()
	must(t, err)
	c := &checker{ctx: t.Context(), deps: r.s.checkDeps()}
	buf := disk.AlignedBuffer(disk.MaxChunkSize)
	read := func(o segment.Object, what string, want bool) {
		t.Helper()
		there, err := c.read(g, &o, buf[:o.Length])
		if there != want || want && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: read %v, %v", what, there, err)
		}
	}
	gone := objs[0]
	gone.Block += 100
	read(gone, "a place that the list does not name", false)
	must(t, g.Data.Punch(int64(objs[0].Block)*disk.BlockSize, disk.BlockSize))
	read(objs[0], "a place that the list names, and that has other bytes", true)
	r.s.segments.Remove(g.ID)
	read(objs[0], "a segment that was retired", false)
	r.s.segments.Add(g)
}
