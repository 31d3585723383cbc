package objstore

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
)

// manySnapshots gives a volume n settled snapshots, each of a root of its own, as refs would after
// a long time.
func manySnapshots(t *testing.T, r *rig, v *Volume, n int) {
	t.Helper()
	recs := make([]refs.Record, 0, n)
	for i := range n {
		root := merkle.Sum(merkle.KindRoot, fmt.Append(nil, v.Name(), i))
		recs = append(recs, refs.Record{
			Op: refs.OpSnapshot, ID: v.ref.ID, Name: fmt.Sprintf("auto-%08d", i), Root: root.String(), Logical: int64(i), Time: time.Unix(int64(i), 0),
		})
	}
	r.s.catalog.mu.Lock()
	defer r.s.catalog.mu.Unlock()
	for i := range recs {
		must(t, r.s.catalog.refs.Apply(&recs[i]))
	}
}

// What one look-up by name or by root costs does not depend on how many snapshots there are.
func TestLookUpsDoNotGrow(t *testing.T) {
	cost := func(n int) (bytes uint64) {
		r := newRig(t, Options{})
		v := r.volume("a", 1<<20)
		manySnapshots(t, r, v, n)
		last, err := r.s.SnapshotInfo("a", fmt.Sprintf("auto-%08d", n-1))
		must(t, err)
		look := func() {
			if i, err := r.s.RootInfo(last.Root); err != nil || i.Size != 1<<20 || i.Logical != int64(n-1) {
				t.Fatalf("%+v, %v", i, err)
			}
			if i, err := r.s.SnapshotInfo("a", last.Name); err != nil || i != last {
				t.Fatalf("%+v, %v", i, err)
			}
			if _, err := r.s.OpenRoot(last.Root); err == nil { // its object is made up
				t.Fatal("a root without an object opens")
			}
		}
		look() // what is made once
		return allocatedBy(func() {
			for range 20 {
				look()
			}
		})
	}
	few, many := cost(50), cost(5000)
	t.Logf("20 look-ups: %d bytes with 50 snapshots, %d with 5000", few, many)
	if many > 4*few {
		t.Errorf("look-ups take %d bytes with 50 snapshots and %d with 5000", few, many)
	}
}

// allocatedBy says how many bytes f allocates: what it copies and collects.
func allocatedBy(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Roots are found as long as something refers to them, whoever that is.
func TestRootsAreFoundWhileReferredTo(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	a, b := r.volume("a", 1<<20), r.volume("b", 1<<20)
	roots := func(want ...string) {
		t.Helper()
		slices.Sort(want)
		if got := r.s.Roots(); !slices.Equal(got, slices.Compact(want)) {
			t.Fatalf("roots %v, want %v", got, want)
		}
		for _, id := range want {
			if i, err := r.s.RootInfo(id); err != nil || i.Size != 1<<20 {
				t.Fatalf("%+v, %v", i, err)
			}
			w, err := r.s.OpenRoot(id)
			must(t, err)
			must(t, w.Close())
		}
	}
	info := func(name string) string {
		t.Helper()
		i, err := r.s.VolumeInfo(name)
		must(t, err)
		return i.Root
	}
	empty := info("a")
	roots(empty)
	for _, v := range []*Volume{a, b} {
		r.write(v, randomBytes(1, 8192), 0)
		_, err := r.s.CreateSnapshot(ctx, v.Name(), "one")
		must(t, err)
	}
	must(t, r.s.Settle(ctx))
	one := info("a")
	if i, err := r.s.RootInfo(one); err != nil || i.Logical != 8192 || info("b") != one {
		t.Fatalf("%+v, %v", i, err)
	}
	roots(one)
	r.write(a, randomBytes(2, 4096), 0)
	must(t, r.s.Settle(ctx))
	roots(one, info("a"))
	must(t, r.s.DeleteSnapshot(ctx, "a", "one"))
	roots(one, info("a")) // b has it still
	must(t, r.s.DeleteSnapshot(ctx, "b", "one"))
	roots(one, info("a"))
	must(t, b.Close())
	must(t, a.Close())
	must(t, r.s.Close())
	r.open(nil)
	roots(one, info("a"))
	must(t, r.s.DeleteVolume(ctx, "b"))
	roots(info("a"))
	if _, err := r.s.RootInfo(one); err == nil {
		t.Fatal("a root that nothing refers to is found")
	}
}
