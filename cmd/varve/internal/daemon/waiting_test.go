package daemon

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// waits returns what the lists say of the volume's device, which waits.
func (w *world) waits(t *testing.T, volume string) protocol.Attachment {
	t.Helper()
	s, err := w.c.Stat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v, err := w.c.Volume(t.Context(), volume)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Attached) != 1 || len(v.Attached) != 1 || s.Attached[0] != v.Attached[0] {
		t.Fatalf("stat has devices %+v, the volume %+v: want the same one", s.Attached, v.Attached)
	}
	if a := s.Attached[0]; a.State == protocol.StateWaiting {
		return a
	}
	t.Fatalf("the device is %s, want one that waits", s.Attached[0].State)
	return protocol.Attachment{}
}

// triesAgain reports whether a volume's device waits for another try to serve it: what becomes of
// it is decided.
func (w *world) triesAgain(volume string) bool {
	return slices.ContainsFunc(w.d.table.Shown(), func(a protocol.Attachment) bool { return a.Volume == volume && !a.RetryAt.IsZero() })
}

func (w *world) servedAgain(t *testing.T) {
	t.Helper()
	eventually(t, "the device is served again", func() bool {
		s, err := w.c.Stat(t.Context())
		return err == nil && len(s.Attached) == 1 && s.Attached[0].State == protocol.StateServed
	})
}

// A device whose takeover fails and that is in use is kept, shown with its error, and tried again;
// nobody takes its volume away.
func TestTakeoverThatFails(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.set(errors.New("for a while"), true, a.Attachment)
	w.start(t)
	w.d.Takeover(t.Context())
	got := w.waits(t, "a")
	if !strings.Contains(got.Error, "for a while") || time.Until(got.RetryAt) > retryFirst || time.Until(got.RetryAt) < retryFirst/2 {
		t.Errorf("what waits is shown as %+v", got)
	}
	_, discarded := w.ublk.seen()
	wantNodes(t, discarded)
	wantNodes(t, w.savedNodes(t), a.Device)
	_, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "a"})
	wantError(t, err, objstore.ErrInUse, a.Device)
	wantError(t, w.c.DeleteVolume(t.Context(), "a"), objstore.ErrInUse, a.Device)
	_, err = w.c.Detach(t.Context(), protocol.Detach{Target: a.Device})
	wantError(t, err, protocol.ErrBusy, "--force")
	if _, err := w.c.Detach(t.Context(), protocol.Detach{Target: "a", Force: true}); err != nil {
		t.Fatal(err)
	}
	_, discarded = w.ublk.seen()
	wantNodes(t, discarded, a.Device)
	wantNodes(t, w.savedNodes(t))
	w.attach(t, "a")
}

// One that nobody has open is removed.
func TestTakeoverThatFailsUnused(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.set(errors.New("for a while"), false, a.Attachment)
	w.removedAtTakeover(t, a.Device)
}

// triedOften waits until devices that wait were tried some times.
func (w *world) triedOften(t *testing.T) {
	t.Helper()
	eventually(t, "some tries", func() bool {
		w.ublk.mu.Lock()
		defer w.ublk.mu.Unlock()
		return w.ublk.tries > 3
	})
}

func TestWaitingDeviceIsTriedAgain(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.set(errors.New("for a while"), true, a.Attachment)
	w.start(t)
	w.d.retryFirst = time.Millisecond
	w.d.Takeover(t.Context())
	w.triedOften(t)
	w.waits(t, "a")
	w.ublk.set(nil, true, a.Attachment)
	w.servedAgain(t)
	wantNodes(t, w.savedNodes(t), a.Device)

	// Between two tries its user may let go of it, or its volume may turn out to be unfit.
	for _, c := range []struct {
		err  error
		open bool
	}{{errors.New("for ever"), false}, {devices.ErrUnfit, true}} {
		_, give, err := w.d.turns.take(t.Context(), turnOf("a"))
		if err != nil {
			t.Fatal(err)
		}
		w.d.reviveAfter = 0
		give()
		w.ublk.set(errors.New("for a while"), true, a.Attachment)
		w.ublk.device("a").end("failed")
		eventually(t, "the device waits", func() bool { return len(w.attachedNodes(t)) == 1 })
		w.ublk.set(c.err, c.open, a.Attachment)
		eventually(t, "the device is removed", func() bool { return len(w.attachedNodes(t)) == 0 })
		eventually(t, "the list is saved without it", func() bool { return len(w.savedNodes(t)) == 0 })
		a = w.attach(t, "a")
	}
}

// A device that fails soon after its start is not started again at once, but later.
func TestDeviceThatFailsSoon(t *testing.T) {
	w := newWorld(t, "a")
	w.d.retryFirst = time.Second // until then the test looks at what waits
	a := w.attach(t, "a")
	w.ublk.set(nil, true, a.Attachment)
	w.ublk.device("a").end("something broke")
	eventually(t, "the device waits", func() bool {
		return w.triesAgain("a")
	})
	if got := w.waits(t, "a"); !strings.Contains(got.Error, "something broke") || !strings.Contains(got.Error, "soon after its start") {
		t.Errorf("what waits is shown as %+v", got)
	}
	w.servedAgain(t)

	// In use by nobody: removed, and said so.
	w.ublk.set(nil, false, a.Attachment)
	w.ublk.device("a").end("failed")
	eventually(t, "the device is removed", func() bool {
		_, discarded := w.ublk.seen()
		return len(discarded) == 1 && len(w.attachedNodes(t)) == 0
	})
	w.attach(t, "a")
}

// The pauses grow, and end growing.
func TestRetryPauses(t *testing.T) {
	w := newWorld(t, "a")
	a := protocol.Attachment{Volume: "a", Device: "/dev/ublkb0", Transport: "ublk"}
	if err := w.d.turns.end(t.Context(), 0); err != nil { // nothing is tried by itself
		t.Fatal(err)
	}
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		if got := w.d.postpone(a, devices.ErrUnfit); got != want*time.Second {
			t.Errorf("pause %d is %v, want %v", i, got, want*time.Second)
		}
	}
}

// What waits is left to the next daemon, by a stop.
func TestStopLeavesWaitingDevice(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.set(errors.New("for a while"), true, a.Attachment)
	w.start(t)
	w.d.Takeover(t.Context())
	w.d.Release(t.Context(), false)
	w.d.watchers.Wait() // no try is left over
	wantNodes(t, w.savedNodes(t), a.Device)
	w.ublk.set(nil, true, a.Attachment)
	w.start(t)
	w.d.Takeover(t.Context())
	w.servedAgain(t)
}

// Between the end of a device's service and its revival nobody gets its volume.
func TestFailedDeviceKeepsItsVolume(t *testing.T) {
	w := newWorld(t, "a")
	w.d.reviveAfter = 0
	a := w.attach(t, "a")
	w.ublk.set(nil, true, a.Attachment)
	_, give, err := w.d.turns.take(t.Context(), turnOf("a")) // somebody else's change goes on
	if err != nil {
		t.Fatal(err)
	}
	w.ublk.device("a").end("failed")
	eventually(t, "the device is shown as one that waits", func() bool {
		s, err := w.c.Stat(t.Context())
		return err == nil && len(s.Attached) == 1 && s.Attached[0].State == protocol.StateWaiting
	})
	wantError(t, w.d.mayAttach("a"), objstore.ErrInUse, a.Device)
	wantNodes(t, w.savedNodes(t), a.Device)
	give()
	w.servedAgain(t)
}

// A device of which nothing is known for a moment is tried again.
func TestFailedDeviceWithoutList(t *testing.T) {
	w := newWorld(t, "a")
	w.d.reviveAfter, w.d.retryFirst = 0, 10*time.Millisecond
	w.attach(t, "a")
	w.ublk.mu.Lock()
	w.ublk.unlisted = errors.New("GET_PARAMS of device 7: timed out")
	w.ublk.mu.Unlock()
	w.ublk.device("a").end("failed")
	eventually(t, "the device is recovered", func() bool {
		recovered, _ := w.ublk.seen()
		return len(recovered) == 1
	})
	w.servedAgain(t)
}
