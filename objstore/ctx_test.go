package objstore

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Whoever waits for a lock that somebody holds over I/O, and gives up, is let go at once, and
// nothing has been done: of all that takes a context.
func TestContextEndsTheWaitForALock(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("a", 1<<20)
	must(t, r.volume("b", 1<<20).Close())
	_, err := r.s.CreateSnapshot(t.Context(), "a", "s")
	must(t, err)
	must(t, r.s.Settle(t.Context()))
	must(t, r.s.Quiesce())
	a, err := r.s.catalog.find("a")
	must(t, err)
	logMu, settleMu, checking := &r.s.catalog.logMu, &a.settleMu, &r.s.checking
	for name, c := range map[string]struct {
		lock interface{ Lock() }
		call func(ctx context.Context) error
	}{
		"CreateVolume": {logMu, func(ctx context.Context) error {
			_, err := r.s.CreateVolume(ctx, "new", VolumeOptions{Size: 1 << 20})
			return err
		}},
		"DeleteVolume": {logMu, func(ctx context.Context) error { return r.s.DeleteVolume(ctx, "b") }},
		"SetVerify": {logMu, func(ctx context.Context) error {
			_, err := r.s.SetVerify(ctx, "a", true)
			return err
		}},
		"CreateSnapshot": {logMu, func(ctx context.Context) error {
			_, err := r.s.CreateSnapshot(ctx, "a", "new")
			return err
		}},
		"DeleteSnapshot": {logMu, func(ctx context.Context) error { return r.s.DeleteSnapshot(ctx, "a", "s") }},
		"CreateScratch": {logMu, func(ctx context.Context) error {
			_, err := r.s.CreateScratch(ctx, "a", "s")
			return err
		}},
		"RepairVolume": {settleMu, func(ctx context.Context) error {
			_, err := r.s.RepairVolume(ctx, "a", true)
			return err
		}},
		"AcceptCopies": {settleMu, func(ctx context.Context) error {
			_, err := r.s.AcceptCopies(ctx, CopiedStopped)
			return err
		}},
		"settleLayer": {settleMu, func(ctx context.Context) error { return r.s.settler.settleLayer(ctx, a) }},
		"Check": {checking, func(ctx context.Context) error {
			_, err := r.s.Check(ctx, nil)
			return err
		}},
	} {
		c.lock.Lock()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		done := make(chan error, 1)
		go func() { done <- c.call(ctx) }()
		select {
		case err := <-done:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(patience):
			t.Errorf("%s goes on waiting for a lock when its context has ended", name)
		}
		cancel()
		c.lock.(interface{ Unlock() }).Unlock()
	}
	if vols := r.s.Volumes(); len(vols) != 2 || vols[0].Snapshots != 1 || vols[0].Verify {
		t.Errorf("calls that were given up have changed something: %+v", vols)
	}
	r.s.Resume()
}

// A look for the end of what is alike in an image ends with its context, however large the image.
func TestContextEndsExtent(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 64<<20)
	r.write(v, make([]byte, 4096), 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := v.Extent(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("extent for nobody: %v", err)
	}
}
