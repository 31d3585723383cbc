package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/targets"
)

// keepTarget notes a device of an earlier daemon, whose file is missing.
func (w *world) keepTarget(t *testing.T) targets.Record {
	t.Helper()
	before := targets.Runtime
	targets.Runtime = t.TempDir()
	t.Cleanup(func() {
		w.d.Release(context.Background(), true) // nothing looks there any more
		w.d.watchers.Wait()
		targets.Runtime = before
	})
	w.d.inst = instance.Instance{ID: "the store's instance"}
	r := targets.Record{
		TargetDevice: protocol.TargetDevice{ID: 1 << 19, Target: protocol.Target{Type: "loop", Files: []string{filepath.Join(t.TempDir(), "missing")}}},
		Instance:     w.d.inst.ID,
	}
	if err := targets.Note(r); err != nil {
		t.Fatal(err)
	}
	return r
}

// waitingTargets returns the devices without a volume that stat shows as waiting.
func (w *world) waitingTargets(t *testing.T) []protocol.ServedTarget {
	t.Helper()
	s, err := w.c.Stat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range s.Targets {
		if k.State != protocol.StateWaiting || k.Device != devicePath(k.ID) {
			t.Errorf("%+v, want that it waits", k)
		}
	}
	return s.Targets
}

// TestTargetIsTriedAgain has a device that can't be taken over at first.
func TestTargetIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	r := w.keepTarget(t)
	w.d.retryFirst = time.Millisecond
	var tries atomic.Int32
	var there atomic.Bool
	w.d.takeTargetAgain = func(_ context.Context, again targets.Record) error {
		tries.Add(1)
		if again.ID != r.ID || again.String() != r.String() {
			t.Errorf("%s is tried, want %s", again.String(), r.String())
		}
		if there.Load() {
			return nil
		}
		return errors.New("still missing")
	}
	w.d.Takeover(t.Context())
	if list := w.waitingTargets(t); len(list) != 1 || list[0].ID != r.ID || list[0].Error == "" || list[0].RetryAt.IsZero() {
		t.Errorf("%+v wait, want %s", list, r.String())
	}
	eventually(t, "some tries", func() bool { return tries.Load() > 3 })
	there.Store(true)
	eventually(t, "the device is served", func() bool { return len(w.waitingTargets(t)) == 0 })
}

// TestTargetIsTriedNoMore has devices that wait, and then do not.
func TestTargetIsTriedNoMore(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, w *world, r targets.Record){
		"deleted": func(t *testing.T, _ *world, r targets.Record) {
			if err := targets.Forget(r.ID); err != nil {
				t.Fatal(err)
			}
		},
		"of another daemon": func(t *testing.T, _ *world, r targets.Record) {
			r.Instance = "another"
			if err := targets.Note(r); err != nil {
				t.Fatal(err)
			}
		},
		"recovered by a command": func(_ *testing.T, w *world, r targets.Record) {
			k := &targetDevice{Record: r}
			w.d.targets.add(k)
			w.d.targets.remove(k)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.keepTarget(t)
			w.d.retryFirst = time.Millisecond
			var tries atomic.Int32
			w.d.takeTargetAgain = func(context.Context, targets.Record) error {
				tries.Add(1)
				return errors.New("missing")
			}
			w.d.Takeover(t.Context())
			eventually(t, "a try", func() bool { return tries.Load() > 0 })
			end(t, w, r)
			eventually(t, "it waits no more", func() bool { return len(w.waitingTargets(t)) == 0 })
		})
	}
}

// TestTargetIsLeftToTheNext stops the tries with the daemon.
func TestTargetIsLeftToTheNext(t *testing.T) {
	w := newWorld(t)
	r := w.keepTarget(t)
	w.d.retryFirst = time.Hour
	w.d.Takeover(t.Context())
	if list := w.waitingTargets(t); len(list) != 1 {
		t.Fatalf("%+v wait, want %s", list, r.String())
	}
	w.d.Release(t.Context(), false)
	w.d.watchers.Wait() // not for an hour
	if _, known, err := targets.Noted(r.ID); err != nil || !known {
		t.Errorf("the next daemon does not know the device: %v", err)
	}
}

// TestTargetThatWaitedIsNoReason against an upgrade is: the predecessor could not serve it either.
func TestTargetThatWaitedIsNoReason(t *testing.T) {
	w := newWorld(t)
	r := w.keepTarget(t)
	w.d.retryFirst = time.Hour
	for _, handed := range [][]protocol.HandedTarget{nil, {{ID: r.ID}}} {
		_, err := w.d.takeTargets(t.Context(), handed)
		if err == nil || !strings.Contains(err.Error(), devicePath(r.ID)) || !strings.Contains(err.Error(), r.String()) {
			t.Errorf("handed over %+v: %v, want an error that names the device", handed, err)
		}
	}
	taken, err := w.d.takeTargets(t.Context(), []protocol.HandedTarget{})
	if err != nil || len(taken) > 0 {
		t.Fatalf("%+v, %v", taken, err)
	}
	if list := w.waitingTargets(t); len(list) != 1 {
		t.Errorf("%+v wait, want %s", list, r.String())
	}
	w.d.targets.stopRetries()
	if list := w.d.targets.unplanned(); len(list) != 1 {
		t.Errorf("%+v are tried no more, want one", list)
	}
}
