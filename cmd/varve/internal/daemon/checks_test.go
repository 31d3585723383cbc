package daemon

import (
	"errors"
	"slices"
	"testing"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// A scheduled check is interrupted by that of a client, and by a handover, and continues
// afterwards.
func TestScheduledCheckMakesWay(t *testing.T) {
	w := newWorld(t, "a")
	w.store.checkTakes = time.Minute
	w.store.due = true
	scheduled := func(o objstore.CheckOptions) bool { return o.Scheduled }
	count := func() (n int) {
		for _, o := range w.store.begun() {
			if scheduled(o) {
				n++
			}
		}
		return n
	}
	defer w.d.checks.watch(time.Millisecond)()
	eventually(t, "a check that is due begins", func() bool { return count() == 1 })

	done := make(chan error, 1)
	w.store.mu.Lock()
	w.store.checkTakes = 50 * time.Millisecond
	w.store.mu.Unlock()
	go func() {
		_, err := w.c.Check(t.Context(), protocol.CheckStore{Percent: 7}, func(objstore.CheckProgress) {})
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("a check beside a scheduled one: %v", err)
	}
	if !slices.ContainsFunc(w.store.begun(), func(o objstore.CheckOptions) bool { return o.Percent == 7 }) {
		t.Errorf("checks: %+v", w.store.begun())
	}
	eventually(t, "the scheduled check goes on", func() bool { return count() >= 2 })
	w.d.checks.scheduled.hold()
	if w.d.checks.scheduled.stop != nil {
		t.Error("the scheduled check goes on")
	}
	held := count()
	time.Sleep(20 * time.Millisecond)
	if n := count(); n != held {
		t.Errorf("%d scheduled checks began during a handover", n-held)
	}
	w.d.checks.scheduled.release()
	eventually(t, "the next one begins", func() bool { return count() > held })
}

// Two clients do not check at once, and what makes no sense is refused.
func TestOneCheckAtATime(t *testing.T) {
	w := newWorld(t, "a")
	if !w.d.checks.ofClient.TryLock() {
		t.Fatal("nothing runs")
	}
	if _, err := w.c.Check(t.Context(), protocol.CheckStore{}, nil); !errors.Is(err, protocol.ErrBusy) {
		t.Errorf("beside another check: %v", err)
	}
	w.d.checks.ofClient.Unlock()
	for _, r := range []protocol.CheckStore{{Percent: 101}, {Rate: -1}, {Resume: true, Percent: 3}} {
		if _, err := w.c.Check(t.Context(), r, nil); !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	every, rate := int64(3600), int64(5)
	if _, err := w.c.SetMaintenance(t.Context(), protocol.Maintenance{ScrubEvery: &every, ScrubRate: &rate}); err != nil {
		t.Error(err)
	}
	every = 7200
	if _, err := w.c.SetMaintenance(t.Context(), protocol.Maintenance{ScrubEvery: &every}); err != nil {
		t.Error(err)
	}
	if m := w.store.maintenance; m.ScrubEvery != 2*time.Hour || m.ScrubRate != 5 || m.CollectRate != 0 {
		t.Errorf("set %+v", m)
	}
	for _, m := range []protocol.Maintenance{{}, {ScrubEvery: new(int64(5))}, {ScrubRate: new(int64(-1))}} {
		if _, err := w.c.SetMaintenance(t.Context(), m); !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("%+v: %v", m, err)
		}
	}
}
