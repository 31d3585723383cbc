package daemon

import (
	"context"
	"testing"
	"time"

	"varve/objstore"
)

// made is how many automatic snapshots were tried.
func (s *fakeStore) made() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.automatic
}

// Snapshots that are due are made, and those that the policy does not keep deleted; what cannot be
// made waits for its next try and delays nobody.
func TestPoliciesAreApplied(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.store.policyDue = []string{"a"}
	for range 3 {
		w.d.automatic.pass(t.Context())
	}
	list, _ := w.store.Snapshots("")
	if len(list) != 1 || list[0].Name != "auto-3" {
		t.Errorf("snapshots %v, want the newest alone", list)
	}
	w.store.automaticErr = objstore.ErrNoSpace
	w.d.automatic.pass(t.Context())
	w.d.automatic.pass(t.Context())
	if n := w.store.made(); n != 4 {
		t.Errorf("%d tries, want no second one within %v of a failure", n, automaticRetry)
	}
	w.store.automaticErr, w.store.policyDue = nil, []string{"a", "b"}
	w.d.automatic.pass(t.Context())
	if n := w.store.made(); n != 5 {
		t.Errorf("%d tries, want that of the volume that has not failed", n)
	}
}

// A handover ends a snapshot that is being made, and none begins until it is called off.
func TestPoliciesRestForHandover(t *testing.T) {
	w := newWorld(t, "a")
	w.store.policyDue, w.store.automaticTakes = []string{"a"}, time.Minute
	end := w.d.automatic.watch(time.Millisecond)
	defer end()
	eventually(t, "a snapshot begins", func() bool { return w.store.made() == 1 })
	w.d.automatic.hold()
	time.Sleep(20 * time.Millisecond)
	if n := w.store.made(); n != 1 {
		t.Errorf("%d snapshots were begun during a handover", n-1)
	}
	if w.d.automatic.run(t.Context(), func(context.Context) {}) {
		t.Error("a pass begins during a handover")
	}
	w.d.automatic.release()
	eventually(t, "snapshots go on", func() bool { return w.store.made() == 2 })
}
