package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// copied has the daemon of a world end, and gives another world with a copy of its store.
func (w *world) copied(t *testing.T, id string) *world {
	t.Helper()
	c := *w
	c.dir, c.inst.ID = t.TempDir(), id
	b, err := os.ReadFile(filepath.Join(w.dir, "attached.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(c.dir, "attached.json"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.ublk, c.loop, c.mounter = newFakeTransport("ublkb", true), newFakeTransport("loop", false), &fakeMounter{}
	c.ublk.next = 10
	return &c
}

// The daemon of a copy leaves the devices and mounts of its list alone, says so wherever somebody
// asks for them, and attaches its own beside them.
func TestCopyLeavesDevicesAlone(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.inst = instance.Instance{UUID: "u", ID: "original"}
	w.start(t)
	a := w.attach(t, "a")
	if _, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "b", Transport: "loop"}); err != nil {
		t.Fatal(err)
	}
	if err := w.c.Mount(t.Context(), protocol.Mount{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	c := w.copied(t, "copy")
	c.start(t)
	c.d.Takeover(t.Context())
	wantNodes(t, c.attachedNodes(t))
	recovered, discarded := c.ublk.seen()
	wantNodes(t, recovered)
	wantNodes(t, discarded)
	_, discarded = c.loop.seen()
	wantNodes(t, discarded)
	if len(c.mounter.mounts) > 0 {
		t.Errorf("the original's mounts are mounted: %v", c.mounter.mounts)
	}
	s, err := c.c.Stat(t.Context())
	if err != nil || len(s.Foreign) != 1 || s.Foreign[0].Device != a.Device || s.Foreign[0].State != protocol.StateForeign && s.Foreign[0].Error == "" {
		t.Errorf("stat shows %+v, %v", s.Foreign, err)
	}
	for _, target := range []string{"a", a.Device} {
		_, err := c.c.Detach(t.Context(), protocol.Detach{Target: target, Force: true})
		wantError(t, err, objstore.ErrNotFound, "not this store's", "--moved", "--new-uuid")
	}
	_, discarded = c.ublk.seen()
	wantNodes(t, discarded)
	mine := c.attach(t, "a")
	if !slices.ContainsFunc(mine.Notes, func(n string) bool { return strings.Contains(n, a.Device) && strings.Contains(n, "--new-uuid") }) {
		t.Errorf("the notes of attach are %q", mine.Notes)
	}
	wantNodes(t, c.savedNodes(t), mine.Device)
	if got, err := c.c.SetIdentity(t.Context(), protocol.Identity{NewUUID: true}); err != nil || got.UUID != "new" {
		t.Errorf("a new UUID: %+v, %v", got, err)
	}
	if s, err := c.c.Stat(t.Context()); err != nil || len(s.Foreign) > 0 {
		t.Errorf("after it stat shows %+v, %v", s.Foreign, err)
	}
	_, err = c.c.Detach(t.Context(), protocol.Detach{Target: a.Device})
	wantError(t, err, objstore.ErrNotFound, "neither")
}

// A store that was moved gets its devices when somebody says so, and no daemon has begun to serve
// it.
func TestMovedStore(t *testing.T) {
	w := newWorld(t, "a")
	w.inst = instance.Instance{UUID: "u", ID: "original"}
	w.start(t)
	a := w.attach(t, "a")
	c := w.copied(t, "moved")
	c.start(t)
	c.d.Takeover(t.Context())
	_, err := c.c.SetIdentity(t.Context(), protocol.Identity{Moved: true})
	wantError(t, err, protocol.ErrBusy, "varve stop")
	c.d.Release(t.Context(), false)
	local := New(c.dir, c.store, Options{inst: c.inst})
	if err := local.identity.adopt(); err != nil {
		t.Fatal(err)
	}
	s, err := local.identity.readList()
	if err != nil || len(s.Foreign) > 0 || len(s.Attached) != 1 || s.Attached[0].Device != a.Device || s.Attached[0].Mark == 0 {
		t.Errorf("the list becomes %+v, %v", s, err)
	}
}

// A device that another daemon serves is not tried again: it would be taken when that daemon dies.
func TestDeviceOfLivingDaemonIsDropped(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.set(protocol.As(devices.ErrForeign, errors.New("process 5 serves it")), true, a.Attachment)
	w.start(t)
	w.d.retryFirst = time.Millisecond
	w.d.Takeover(t.Context())
	wantNodes(t, w.attachedNodes(t))
	wantNodes(t, w.savedNodes(t))
	w.ublk.set(nil, true, a.Attachment)
	time.Sleep(20 * time.Millisecond)
	recovered, discarded := w.ublk.seen()
	wantNodes(t, recovered)
	wantNodes(t, discarded)
}
