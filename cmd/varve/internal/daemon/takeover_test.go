package daemon

import (
	"testing"

	"varve/cmd/varve/internal/protocol"
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

func TestTakeoverThatFails(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.waiting, w.ublk.broken = []protocol.Attachment{a.Attachment}, true
	w.start(t)
	w.d.Takeover(t.Context())
	wantNodes(t, w.attachedNodes(t))
	_, discarded := w.ublk.seen()
	wantNodes(t, discarded, a.Device)
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
