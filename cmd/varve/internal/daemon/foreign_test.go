package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"varve/blockdev"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// A list is the store's own where the instance is, and in this boot.
func TestBindState(t *testing.T) {
	in := instance.Instance{UUID: "u", ID: "1"}
	written := state{
		Store: "u", Instance: "1", Boot: "boot", Starting: []string{"b"}, Mounts: []protocol.Mount{{Dir: "/mnt"}},
		Attached: []protocol.Attachment{
			{Volume: "a", Transport: "ublk", Device: "/dev/ublkb0", Mark: 5}, {Volume: "l", Transport: "loop", Device: "/dev/loop0"},
		},
	}
	own := written
	own.bind(in, "boot")
	if !reflect.DeepEqual(own, written) {
		t.Errorf("its own list becomes %+v", own)
	}
	copied := written
	copied.bind(instance.Instance{UUID: "u", ID: "2"}, "boot")
	if want := (state{Store: "u", Instance: "1", Boot: "boot", Foreign: written.Attached[:1]}); !reflect.DeepEqual(copied, want) {
		t.Errorf("a copied list becomes %+v, want %+v", copied, want)
	}
	later := written
	later.bind(in, "another boot")
	if !reflect.DeepEqual(later, state{}) {
		t.Errorf("a list of another boot becomes %+v", later)
	}
}

// The list of an older version says nothing of the instance. It is the store's own if the store was there before it.
func TestBindStateOfOlderVersion(t *testing.T) {
	born := time.Date(2026, 11, 27, 10, 0, 0, 500, time.UTC)
	for _, c := range []struct {
		name           string
		since, written time.Duration // after the store was made
		known, ours    bool
	}{
		{"own", time.Hour, 2 * time.Hour, true, true},
		{"own, attached at once", -500, time.Millisecond, true, true},
		{"copied later, with its times", -time.Hour, -time.Hour, true, false},
		{"copied later, without", -time.Hour, time.Second, true, false},
		{"no time of birth", time.Hour, time.Hour, false, false},
	} {
		in := instance.Instance{UUID: "u", ID: "1"}
		if c.known {
			in.Born = born
		}
		s := state{
			Store: "u", Boot: "boot", Starting: []string{"b"}, written: born.Add(c.written),
			Attached: []protocol.Attachment{{Volume: "a", Transport: "ublk", ID: 3, Since: born.Add(c.since).Truncate(time.Second)}},
		}
		s.bind(in, "boot")
		claims := s.claims()
		for volume, i := range map[string]blockdev.DeviceInfo{
			"a": {ID: 3, State: blockdev.StateQuiesced, Owner: in.OldMark("a")},
			"b": {ID: 4, State: blockdev.StateDead, Owner: in.OldMark("b")},
		} {
			if _, ours := claims.Index(in).Volume(&i); ours != c.ours {
				t.Errorf("%s: the device of volume %s is ours: %v, want %v", c.name, volume, ours, c.ours)
			}
		}
		if foreign := len(s.Foreign) == 1; foreign == c.ours {
			t.Errorf("%s: foreign are %+v", c.name, s.Foreign)
		}
	}
}

// copied has the daemon of a world end, and gives another world with a copy of its store.
func (w *world) copied(t *testing.T, id string) *world {
	t.Helper()
	c := *w
	c.dir, c.inst.ID = t.TempDir(), id
	b, err := os.ReadFile(filepath.Join(w.dir, stateName))
	if err == nil {
		err = os.WriteFile(filepath.Join(c.dir, stateName), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.ublk, c.loop, c.mounter = newFakeTransport("ublkb", true), newFakeTransport("loop", false), &fakeMounter{}
	c.ublk.next = 10
	return &c
}

// The daemon of a copy leaves the devices and mounts of its list alone, says so wherever somebody asks for them, and
// attaches its own beside them.
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

// A store that was moved gets its devices when somebody says so, and no daemon has begun to serve it.
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
	if err := local.adopt(); err != nil {
		t.Fatal(err)
	}
	s, err := local.readOwnState()
	if err != nil || len(s.Foreign) > 0 || len(s.Attached) != 1 || s.Attached[0].Device != a.Device || s.Attached[0].Mark == 0 {
		t.Errorf("the list becomes %+v, %v", s, err)
	}
}

// A device that another daemon serves is not tried again: it would be taken when that daemon dies.
func TestDeviceOfLivingDaemonIsDropped(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.set(protocol.As(errForeign, errors.New("process 5 serves it")), true, a.Attachment)
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
