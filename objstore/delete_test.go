package objstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"varve/objstore/internal/journal"
)

// A deletion waits for readers of the volume, as long as its caller does: meanwhile the settler gets past the volume, and
// when the readers are done, its space is freed although nobody waits any more.
func TestDeletionWaitsForReadersBesideSettling(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	r.write(v, randomBytes(1, 1<<20), 0)
	must(t, v.Flush())
	var p Plan
	must(t, v.Plan(0, 4096, &p))
	must(t, v.Close())
	l := v.layers[0]
	impatient, giveUp := context.WithCancel(ctx)
	defer giveUp()
	deleted := make(chan error, 1)
	go func() { deleted <- r.s.DeleteVolume(impatient, "a") }()
	eventually(t, "the volume's end", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.volume.closed
	})
	past := make(chan error, 1)
	go func() { past <- v.settleOldest(ctx) }()
	select {
	case err := <-past:
		must(t, err)
	case <-time.After(patience):
		t.Error("a plan held on a deleted volume keeps the settler from going on")
	}
	giveUp()
	select {
	case err := <-deleted:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("delete with a plan held: %v", err)
		}
	case <-time.After(patience):
		t.Error("delete does not obey its context")
	}
	v.commitMu.Lock()
	if !l.journal.Closed() {
		t.Error("the journal is open while a plan is held")
	}
	v.commitMu.Unlock()
	if n := len(r.names(journal.Dir)); n != 1 {
		t.Errorf("%d journals while a plan is held, want 1", n)
	}
	v.Release(&p)
	eventually(t, "the journal's removal", func() bool { return len(r.names(journal.Dir)) == 0 })
	b := r.volume("b", 1<<20)
	r.write(b, randomBytes(2, 4096), 0)
	must(t, r.s.Settle(ctx))
	must(t, r.s.Close()) // waits for what the deletion still does
	must(t, r.reopened(r.mem.Kill(), "boot"))
	r.undamaged("deleted")
}

// A volume that is not in use is not deleted for a caller that has given up.
func TestDeletionForNobody(t *testing.T) {
	r := newRig(t, Options{})
	must(t, r.volume("a", 1<<20).Close())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.s.DeleteVolume(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("delete for nobody: %v", err)
	}
	if _, err := r.s.VolumeInfo("a"); err != nil {
		t.Error(err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come", what)
		}
	}
}

func (r *rig) names(dir string) []string {
	r.t.Helper()
	names, err := r.mem.List(dir)
	must(r.t, err)
	return names
}
