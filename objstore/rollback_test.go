package objstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"varve/objstore/internal/journal"
)

// A rollback brings back what a snapshot holds, and keeps the state before, after an opening too.
func TestRollback(t *testing.T) {
	s, dir, old, now := scratchWorld(t)
	r, err := s.RollbackVolume(t.Context(), "a", "one", RollbackOptions{})
	must(t, err)
	if !strings.HasPrefix(r.Snapshot, "rollback-") || r.Volume.Tail != 0 || r.Volume.Snapshots != 2 {
		t.Errorf("the rollback is %+v", r)
	}
	wantHeld(t, s, "a", 4096, old)
	again, err := s.RollbackVolume(t.Context(), "a", "one", RollbackOptions{})
	must(t, err)
	if again.Snapshot != "" || again.Volume.Snapshots != 2 {
		t.Errorf("a rollback to what is there has kept %q", again.Snapshot)
	}
	mine := randomBytes(6, 4096)
	writeClosed(t, s, "a", mine, 0)
	must(t, s.Close())

	s = openTest(t, dir, Options{SettleDelay: -1, SegmentSize: 8 << 20})
	defer s.Close()
	wantHeld(t, s, "a", 4096, old)
	wantHeld(t, s, "a", 0, mine)
	_, err = s.RollbackVolume(t.Context(), "a", r.Snapshot, RollbackOptions{NoSnapshot: true})
	must(t, err)
	wantHeld(t, s, "a", 4096, now)
	wantHeld(t, s, "a", 0, make([]byte, 4096))
}

// A rollback that keeps nothing drops the tail without settling it, and gives its space back.
func TestRollbackDropsTail(t *testing.T) {
	s, dir, old, _ := scratchWorld(t)
	defer s.Close()
	_, err := s.WaitSnapshot(t.Context(), "a", "one")
	must(t, err)
	writeClosed(t, s, "a", randomBytes(7, 4<<20), 8<<20)
	nodes := s.stored.nodes.Load()
	chunks := s.stored.chunks.Load()
	_, err = s.RollbackVolume(t.Context(), "a", "one", RollbackOptions{NoSnapshot: true})
	must(t, err)
	if got := s.stored.chunks.Load(); got != chunks || s.stored.nodes.Load() != nodes {
		t.Errorf("a rollback has settled %d bytes of what it drops", got-chunks)
	}
	st, err := s.Stat()
	must(t, err)
	if st.Tail != 0 {
		t.Errorf("a tail of %d bytes is left", st.Tail)
	}
	left, err := filepath.Glob(filepath.Join(dir, journal.Dir, "*"))
	must(t, err)
	if len(left) != 0 {
		t.Errorf("journals are left: %q", left)
	}
	wantHeld(t, s, "a", 4096, old)
	wantHeld(t, s, "a", 8<<20, make([]byte, 4<<20))
}

// Views of snapshots that have not settled read on, deleted or not, while their volume is rolled
// back, and so do the snapshots.
func TestRollbackUnderViews(t *testing.T) {
	s, _, old, now := scratchWorld(t)
	defer s.Close()
	for _, snap := range []string{"two", "three"} {
		_, err := s.CreateSnapshot(t.Context(), "a", snap)
		must(t, err)
		writeClosed(t, s, "a", randomBytes(8, 1<<20), 2<<20)
	}
	two, err := s.OpenSnapshot("a", "two")
	must(t, err)
	three, err := s.OpenSnapshot("a", "three")
	must(t, err)
	must(t, s.DeleteSnapshot(t.Context(), "a", "three"))
	_, err = s.RollbackVolume(t.Context(), "a", "one", RollbackOptions{NoSnapshot: true})
	must(t, err)
	writeClosed(t, s, "a", randomBytes(9, 1<<20), 4096)
	wantRead(t, two, 4096, now)
	wantRead(t, three, 2<<20, randomBytes(8, 1<<20))
	must(t, two.Close())
	must(t, three.Close())
	again, err := s.OpenSnapshot("a", "two")
	must(t, err)
	wantRead(t, again, 4096, now)
	must(t, again.Close())
	one, err := s.OpenSnapshot("a", "one")
	must(t, err)
	wantRead(t, one, 4096, old)
	must(t, one.Close())
}

// A snapshot or clone that was being made while its volume was rolled back is refused: its layers
// are gone.
func TestRollbackUnderNaming(t *testing.T) {
	s, _, _, _ := scratchWorld(t)
	defer s.Close()
	_, err := s.WaitSnapshot(t.Context(), "a", "one")
	must(t, err)
	v, err := s.catalog.find("a")
	must(t, err)
	n := &naming{}
	defer v.unlist(n)
	must(t, s.freezeDurably(t.Context(), v, n))
	_, err = s.RollbackVolume(t.Context(), "a", "one", RollbackOptions{NoSnapshot: true})
	must(t, err)
	if _, err := s.catalog.name(t.Context(), v, "two", n, s.opts.Now(), time.Time{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a snapshot of what was dropped is named: %v", err)
	}
	s.catalog.mu.Lock()
	err = s.catalog.stillHas(v, n)
	s.catalog.mu.Unlock()
	if !errors.Is(err, ErrInUse) {
		t.Errorf("a clone of what was dropped is made: %v", err)
	}
	_, err = s.CreateSnapshot(t.Context(), "a", "two")
	must(t, err)
	must(t, s.Settle(t.Context()))
}

func TestRollbackRefused(t *testing.T) {
	s, _, _, now := scratchWorld(t)
	defer s.Close()
	if _, err := s.RollbackVolume(t.Context(), "a", "two", RollbackOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("rollback to no snapshot: %v", err)
	}
	a, err := s.OpenVolume("a", "ublk /dev/ublkb7")
	must(t, err)
	_, err = s.RollbackVolume(t.Context(), "a", "one", RollbackOptions{})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "/dev/ublkb7") {
		t.Errorf("rollback of an open volume: %v", err)
	}
	wantRead(t, a, 4096, now)
	must(t, a.Close())
	v, err := s.catalog.beginRollback("a", "one")
	must(t, err)
	if _, err := s.OpenVolume("a", "test"); !errors.Is(err, ErrInUse) {
		t.Errorf("a volume that is being rolled back is opened: %v", err)
	}
	if err := s.DeleteVolume(t.Context(), "a"); !errors.Is(err, ErrInUse) {
		t.Errorf("a volume that is being rolled back is deleted: %v", err)
	}
	if _, err := s.RollbackVolume(t.Context(), "a", "one", RollbackOptions{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a volume is rolled back twice at once: %v", err)
	}
	s.catalog.unreserve(v)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.RollbackVolume(ctx, "a", "one", RollbackOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("rollback with a context that has ended: %v", err)
	}
	wantHeld(t, s, "a", 4096, now)
}

// What a dropped layer's journal says is not replayed by an opening that finds the journal still
// there, as after a kill just behind the record.
func TestRollbackLeavesJournals(t *testing.T) {
	s, dir, old, _ := scratchWorld(t)
	_, err := s.WaitSnapshot(t.Context(), "a", "one")
	must(t, err)
	writeClosed(t, s, "a", randomBytes(7, 1<<20), 0)
	saved := map[string][]byte{}
	list, err := filepath.Glob(filepath.Join(dir, journal.Dir, "*"))
	must(t, err)
	for _, name := range list {
		if saved[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	if len(saved) == 0 {
		t.Fatal("there is no journal")
	}
	_, err = s.RollbackVolume(t.Context(), "a", "one", RollbackOptions{NoSnapshot: true})
	must(t, err)
	must(t, s.Close())
	for name, b := range saved {
		must(t, os.WriteFile(name, b, 0o600))
	}
	s = openTest(t, dir, Options{SettleDelay: -1, SegmentSize: 8 << 20})
	defer s.Close()
	wantHeld(t, s, "a", 4096, old)
}
