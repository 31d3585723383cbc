package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"varve/blockdev"
	"varve/cmd/varve/internal/blockstack"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/targets"
	"varve/objstore"
)

// hold has a daemon take a device for one that it serves.
func hold(d *Daemon, recovery string) *targetDevice {
	k := &targetDevice{
		Record: targets.Record{TargetDevice: protocol.TargetDevice{Recovery: recovery, Target: protocol.Target{Type: "loop", Files: []string{"/disk"}}}},
		dev:    new(blockdev.Device), // of number 0
	}
	d.targets.add(k)
	return k
}

// A version that does not know devices without a volume would leave their I/O waiting; one without
// recovery would die.
func TestNoHandoverOfTargets(t *testing.T) {
	w := newWorld(t, "a")
	old, knows := protocol.Hello{Version: "1.0", Marks: true}, protocol.Hello{Version: "1.1", Marks: true, Targets: true}
	k := hold(w.d, "reissue")
	wantError(t, w.d.mayHandOver(old), protocol.ErrBusy, "/dev/ublkb0", "loop /disk", "1.0", "delete it first")
	if err := w.d.mayHandOver(knows); err != nil {
		t.Error(err)
	}
	w.d.targets.remove(k)
	if err := w.d.mayHandOver(old); err != nil {
		t.Error(err)
	}
	k = hold(w.d, "none")
	wantError(t, w.d.mayHandOver(knows), protocol.ErrBusy, "/dev/ublkb0", "without recovery")
	w.d.targets.remove(k)
}

// What lies on a device of the daemon is no backing for another one.
func TestTargetOnOwnDevice(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	k := hold(w.d, "reissue")
	defer w.d.targets.remove(k)
	for _, own := range []string{a.Device, "/dev/ublkb0"} {
		w.d.below = func(path string) ([]blockstack.Layer, error) {
			if path == "/elsewhere" {
				return []blockstack.Layer{{Path: "/dev/sda"}}, nil
			}
			return []blockstack.Layer{{Path: "/dev/dm-0"}, {Path: own, Over: []string{"/dev/dm-0"}}}, nil
		}
		wantError(t, w.d.mayBack([]string{"/elsewhere", "/mnt/disk"}), objstore.ErrInvalid, "/mnt/disk lies on "+own, "--background")
		if err := w.d.mayBack([]string{"/elsewhere"}); err != nil {
			t.Error(err)
		}
	}
	w.d.below = func(string) ([]blockstack.Layer, error) { return nil, errors.New("unknown") }
	if err := w.d.mayBack([]string{"/mnt/disk"}); err != nil {
		t.Errorf("what can't be found out: %v", err)
	}
}

// Requests are refused without a daemon, and by one that stops.
func TestTargetRefused(t *testing.T) {
	r := protocol.TargetDevice{ID: -1, Target: protocol.Target{Type: "null", Size: 1 << 30}}
	w := newWorld(t, "a")
	bad := r
	bad.Size = 7
	_, err := w.c.AddTarget(t.Context(), bad)
	wantError(t, err, objstore.ErrInvalid, "size 7")
	if err := w.d.turns.end(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	defer w.d.turns.resume()
	for _, ask := range []func() error{
		func() error { _, err := w.c.AddTarget(t.Context(), r); return err },
		func() error { _, err := w.c.RecoverTarget(t.Context(), r); return err },
	} {
		wantError(t, ask(), protocol.ErrStopping)
	}
}

// A file on a file system that hangs delays neither the daemon's start nor other requests for ever,
// and what was opened too late is closed again.
func TestTargetThatHangs(t *testing.T) {
	w := newWorld(t, "a")
	path := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<20)); err != nil {
		t.Fatal(err)
	}
	hangs, below := make(chan struct{}), w.d.below
	w.d.below = func(path string) ([]blockstack.Layer, error) {
		<-hangs
		return nil, nil
	}
	w.d.openLimit = 50 * time.Millisecond
	disk := protocol.Target{Type: "loop", Files: []string{path}}
	_, err := w.c.AddTarget(t.Context(), protocol.TargetDevice{ID: -1, Target: disk})
	if err == nil || !strings.Contains(err.Error(), "open loop "+path) {
		t.Errorf("%v, want that the file was not opened in time", err)
	}
	w.d.openLimit = 20 * time.Second
	close(hangs)
	w.d.watchers.Wait()
	w.d.below = below
	d, err := w.d.openTarget(t.Context(), disk) // it is locked as long as it is open
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}
