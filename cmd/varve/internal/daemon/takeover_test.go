package daemon

import (
	"errors"
	"testing"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func TestTakeover(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b := w.attach(t, "a"), w.attach(t, "b")
	if _, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "c", Transport: "loop"}); err != nil {
		t.Fatal(err)
	}
	// Killed: the kernel keeps a; b and the loop device are gone; d is one that the state does not know.
	unknown := protocol.Attachment{Volume: "d", Device: "/dev/ublkb9", Transport: "ublk", ID: 9}
	w.ublk.waiting = []protocol.Attachment{a.Attachment, unknown}
	w.start(t)
	w.d.Takeover(t.Context())
	wantNodes(t, w.attachedNodes(t), "/dev/ublkb0", "/dev/ublkb9")
	wantNodes(t, w.savedNodes(t), "/dev/ublkb0", "/dev/ublkb9")
	recovered, discarded := w.ublk.seen()
	wantNodes(t, recovered, "/dev/ublkb0", "/dev/ublkb9")
	wantNodes(t, discarded, b.Device)
	_, discarded = w.loop.seen()
	wantNodes(t, discarded, "/dev/loop0")
}

func TestTakeoverOfUnfitDevice(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.waiting, w.ublk.broken = []protocol.Attachment{a.Attachment}, errUnfit
	w.start(t)
	w.d.Takeover(t.Context())
	wantNodes(t, w.attachedNodes(t))
	_, discarded := w.ublk.seen()
	wantNodes(t, discarded, a.Device)
	wantNodes(t, w.savedNodes(t))
}

// A device whose takeover fails for a reason that may pass is kept, and nobody takes its volume away.
func TestTakeoverThatFails(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.waiting, w.ublk.broken = []protocol.Attachment{a.Attachment}, errors.New("for a while")
	w.start(t)
	w.d.Takeover(t.Context())
	wantNodes(t, w.attachedNodes(t))
	_, discarded := w.ublk.seen()
	wantNodes(t, discarded)
	wantNodes(t, w.savedNodes(t), a.Device)
	_, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "a"})
	wantError(t, err, objstore.ErrInUse, a.Device)
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

func TestTakeoverAfterReboot(t *testing.T) {
	w := newWorld(t, "a")
	s := state{Boot: "another", Attached: []protocol.Attachment{{Volume: "a", Device: "/dev/ublkb0", Transport: "ublk"}}}
	if err := s.write(w.dir); err != nil {
		t.Fatal(err)
	}
	w.d.Takeover(t.Context())
	if _, discarded := w.ublk.seen(); len(discarded) > 0 {
		t.Errorf("%q were removed: they are somebody else's in this boot", discarded)
	}
	wantNodes(t, w.savedNodes(t))
}
