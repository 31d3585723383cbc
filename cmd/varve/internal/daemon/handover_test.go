package daemon

import (
	"errors"
	"slices"
	"testing"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/handover"
	"varve/cmd/varve/internal/protocol"
)

// A mount that comes into use after it was looked at calls a handover off: all is as before, and no
// device waits.
func TestMountBusyAtTheLastMoment(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.attach(t, "a")
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	for _, dir := range dirs {
		if err := w.c.Mount(t.Context(), protocol.Mount{Dir: dir}); err != nil {
			t.Fatal(err)
		}
	}
	w.mounter.mounts[dirs[1]].sudden = true
	for range 4 { // the others are unmounted before it, or not, in the order of a map
		h := &handover.Successor{Hello: protocol.Hello{Marks: true}}
		if err := w.d.mayHandOver(h.Hello); err != nil {
			t.Fatal(err)
		}
		wantError(t, w.d.letGo(t.Context(), h), protocol.ErrBusy, dirs[1], "--remount")
		if how := w.ublk.device("a").ended(); how != "" {
			t.Fatalf("the device was %q", how)
		}
		for _, dir := range dirs {
			select {
			case <-w.mounter.mounts[dir].done:
				t.Errorf("%s is not mounted", dir)
			default:
			}
		}
		if s, err := w.c.Stat(t.Context()); err != nil || len(s.Mounts) != len(dirs) {
			t.Errorf("mounts are %+v, %v", s.Mounts, err)
		}
		if s, err := devices.ReadList(w.dir); err != nil || len(s.Mounts) != len(dirs) || len(s.Attached) != 1 {
			t.Errorf("the state is %+v, %v", s, err)
		}
	}
	wantNodes(t, w.attachedNodes(t), a.Device)
	w.attach(t, "b")
}

// A version that knows devices by the store's UUID alone could not take over those that are bound
// to its instance.
func TestNoHandoverToVersionWithoutMarks(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	h := &handover.Successor{Hello: protocol.Hello{Version: "1.0"}}
	wantError(t, w.d.mayHandOver(h.Hello), protocol.ErrBusy, a.Device, "1.0", "detach")
	w.d.table.Find("a", "").Mark = w.d.inst.OldMark("a") // it was handed over by an older version
	if err := w.d.mayHandOver(h.Hello); err != nil {
		t.Error(err)
	}
}

// A loop device dies with its daemon: attach says so, asked for or not, and no successor gets to
// the point at which it would.
func TestLoopDeviceAndItsDaemon(t *testing.T) {
	for _, transport := range []string{"loop", "auto"} {
		w := newWorld(t, "a")
		w.ublk.absent = errors.New("no ublk here")
		a, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "a", Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(a.Notes, loopNote) {
			t.Errorf("transport %s: the notes are %q", transport, a.Notes)
		}
		h := &handover.Successor{Hello: protocol.Hello{Marks: true}}
		wantError(t, w.d.mayHandOver(h.Hello), protocol.ErrBusy, a.Device, `"a"`, "loop device", "detach it first")
		wantNodes(t, w.attachedNodes(t), a.Device)
		if _, err := w.c.Detach(t.Context(), protocol.Detach{Target: "a"}); err != nil {
			t.Fatal(err)
		}
		if err := w.d.mayHandOver(h.Hello); err != nil {
			t.Error(err)
		}
	}
	w := newWorld(t, "a")
	if a := w.attach(t, "a"); len(a.Notes) > 0 {
		t.Errorf("a ublk device has the notes %q", a.Notes)
	}
}
