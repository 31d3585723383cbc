package objstore

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"varve/objstore/internal/merkle"
)

// counted waits until the counts follow the names.
func (r *rig) counted() {
	r.t.Helper()
	must(r.t, r.s.accounting.upToDate(context.Background()))
}

func (r *rig) snapshot(volume, name string) {
	r.t.Helper()
	_, err := r.s.CreateSnapshot(context.Background(), volume, name)
	must(r.t, err)
	_, err = r.s.WaitSnapshot(context.Background(), volume, name)
	must(r.t, err)
}

// numbered returns n chunks that differ from one another; equal numbers make equal chunks.
func numbered(from, n int) []byte {
	b := make([]byte, n*4096)
	for i := range n {
		copy(b[i*4096:], fmt.Sprintf("chunk %d", from+i))
	}
	return b
}

// A chunk that two snapshots have is free when both are gone, and is nobody's own before.
func TestWouldFree(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	write := func(off int64, p []byte) {
		_, err := v.WriteAt(p, off)
		must(t, err)
	}
	write(0, numbered(0, 10))
	r.snapshot("a", "one")
	write(0, numbered(100, 4)) // one and two share 6
	r.snapshot("a", "two")
	write(0, numbered(200, 10)) // two and the volume share nothing
	must(t, r.s.Settle(context.Background()))

	const root, leaf = 4096, 8192 // a leaf of up to 128 chunks takes a block, as the root does
	for _, c := range []struct {
		snaps []SnapshotName
		data  int64
	}{
		{[]SnapshotName{{"a", "one"}}, 4 * 4096},
		{[]SnapshotName{{"a", "two"}}, 4 * 4096},
		{[]SnapshotName{{"a", "one"}, {"a", "two"}}, 14 * 4096},
		{[]SnapshotName{{"a", "one"}, {"a", "one"}}, 4 * 4096},
	} {
		got, err := r.s.WouldFree(context.Background(), nil, c.snaps)
		if err != nil || got.Data != c.data {
			t.Errorf("deleting %v would free %+v, %v; want %d bytes of chunks", c.snaps, got, err, c.data)
		}
	}
	got, err := r.s.WouldFree(context.Background(), []string{"a"}, nil)
	if want := int64(24*4096 + 3*(root+leaf/2)); err != nil || got.Total != want {
		t.Errorf("deleting the volume and its snapshots would free %+v, %v; want %d bytes", got, err, want)
	}
	snaps, err := r.s.SharedSnapshots(context.Background(), "a")
	must(t, err)
	want := Share{Referenced: 10*4096 + root + leaf/2, Unique: 4*4096 + root + leaf/2, Shared: 6 * 4096}
	if len(snaps) != 2 || snaps[0].Share == nil || *snaps[0].Share != want || *snaps[1].Share != want {
		t.Errorf("shares %+v, want %+v of both", snaps, want)
	}
	if _, err := r.s.WouldFree(context.Background(), nil, []SnapshotName{{"a", "three"}}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
}

// What is deleted is dead, and what it takes is known before; two names of one root share it.
func TestDead(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	_, err := v.WriteAt(numbered(0, 100), 0)
	must(t, err)
	r.snapshot("a", "one")
	r.snapshot("a", "again")
	_, err = v.WriteAt(numbered(1000, 100), 0)
	must(t, err)
	must(t, r.s.Settle(context.Background()))
	dead := func() int64 {
		r.counted()
		n, ok := r.s.dead()
		if !ok {
			t.Fatal("not counted")
		}
		return n
	}
	before := dead()
	for i, name := range []string{"one", "again"} {
		f, err := r.s.WouldFree(context.Background(), nil, []SnapshotName{{"a", name}})
		must(t, err)
		if want := int64(i) * 100 * 4096; f.Data != want {
			t.Errorf("%s would free %+v, want %d bytes of chunks", name, f, want)
		}
		must(t, r.s.DeleteSnapshot(context.Background(), "a", name))
		if got := dead() - before; got < f.Data || got > f.Total {
			t.Errorf("%d bytes are dead after the deletion of %s, of %+v", got, name, f)
		}
	}
}

// A root that lost its name stays named as one whose objects must stay until its edges are gone.
func TestRootsStayUntilCounted(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	_, err := v.WriteAt(numbered(0, 10), 0)
	must(t, err)
	r.snapshot("a", "one")
	_, err = v.WriteAt(numbered(50, 10), 0)
	must(t, err)
	must(t, r.s.Settle(context.Background()))
	r.counted()
	info, err := r.s.SnapshotInfo("a", "one")
	must(t, err)
	must(t, r.s.Quiesce()) // nobody counts
	must(t, r.s.DeleteSnapshot(context.Background(), "a", "one"))
	holds := func() (held bool) {
		r.s.accounting.roots(func(h merkle.Hash, _ int64) { held = held || h.String() == info.Root })
		return held
	}
	if !holds() {
		t.Error("the root of a deleted snapshot may go before its edges are taken away")
	}
	r.s.Resume()
	for range 6000 {
		if !holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the root of a deleted snapshot stays")
}

// The counts are made again after an opening, without anybody asking.
func TestCountedAfterOpening(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	_, err := v.WriteAt(numbered(0, 10), 0)
	must(t, err)
	must(t, r.s.Settle(context.Background()))
	r.counted()
	before, _ := r.s.dead()
	r.end("closed")
	r.open(nil)
	for range 6000 {
		if got, ok := r.s.dead(); ok {
			if got != before {
				t.Errorf("%d bytes are dead, %d before the opening", got, before)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("never counted")
}

// Whoever waits for the counts no longer leaves them as they are: what was counted is not counted
// again, and the counting that has begun comes to its end.
func TestCountingOutlivesItsCaller(t *testing.T) {
	r := newRig(t, Options{})
	const leaves = 3 * accountingTurn / 2 // more nodes than are read at a time
	v := r.volume("a", leaves<<20)
	fill := func(from int) {
		for i := range leaves {
			_, err := v.WriteAt(numbered(from+i, 1), int64(i)<<20)
			must(t, err)
		}
	}
	fill(0)
	r.snapshot("a", "one")
	fill(leaves)
	must(t, r.s.Settle(t.Context()))
	r.counted()
	before, ok := r.s.dead()
	if !ok {
		t.Fatal("not counted")
	}
	must(t, r.s.Quiesce()) // nobody else counts
	must(t, r.s.DeleteSnapshot(t.Context(), "a", "one"))

	a := r.s.accounting
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	r.s.catalog.mu.Lock() // holds up the counting, which asks for the names first
	go func() { _, err := r.s.CountedStat(ctx); done <- err }()
	for a.mu.TryLock() {
		a.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	cancel()
	r.s.catalog.mu.Unlock()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	a.mu.Lock() // when the counting has ended
	counted := a.graph != nil
	a.mu.Unlock()
	if got, ok := r.s.dead(); !counted || !ok || got-before < leaves*4096 {
		t.Errorf("after the caller has gone: counted %v, %d bytes are dead, %v; want %d and those of %d chunks", counted, got, ok, before, leaves)
	}
}
