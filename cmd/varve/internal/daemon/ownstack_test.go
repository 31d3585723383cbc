package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"

	"varve/blockdev"
	"varve/cmd/varve/internal/blockstack"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func TestStoreOnOwnDevice(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	mnt := t.TempDir()
	if err := w.c.Mount(t.Context(), protocol.Mount{Dir: mnt}); err != nil {
		t.Fatal(err)
	}
	a := w.attach(t, "a")
	for _, l := range []blockstack.Layer{
		{Path: a.Device, Over: []string{"/dev/dm-3"}},
		{Path: mnt, Over: []string{"/dev/loop7"}},
	} {
		w.d.below = func(dir string) ([]blockstack.Layer, error) {
			if dir != w.dir {
				t.Errorf("asked what %s lies on, want %s", dir, w.dir)
			}
			return []blockstack.Layer{{Path: l.Over[0]}, l}, nil
		}
		_, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "b"})
		wantError(t, err, objstore.ErrInvalid, `"b"`, w.dir, l.Path, "below "+l.Over[0], "its own", "move the store")
	}
	wantNodes(t, w.attachedNodes(t), a.Device)

	// Somebody else's device is a disk like any other, and what can't be found out is no reason to
	// refuse.
	w.d.below = func(string) ([]blockstack.Layer, error) {
		return []blockstack.Layer{{Path: "/dev/ublkb77"}, {Path: "/dev/vda"}}, nil
	}
	w.attach(t, "b")
	w.d.below = func(string) ([]blockstack.Layer, error) { return nil, errors.New("no sysfs") }
	w.attach(t, "c")
}

func TestStoreOnDeviceWithoutServer(t *testing.T) {
	on := func(string) ([]blockstack.Layer, error) {
		return []blockstack.Layer{{Path: "/dev/dm-0"}, {Path: "/dev/ublkb5", Over: []string{"/dev/dm-0"}}}, nil
	}
	for _, c := range []struct {
		info    blockdev.DeviceInfo
		err     error
		refused bool
	}{
		{blockdev.DeviceInfo{State: blockdev.StateQuiesced, ServerPID: 99}, nil, true},
		{blockdev.DeviceInfo{State: blockdev.StateLive, ServerPID: 99}, nil, true},
		{blockdev.DeviceInfo{State: blockdev.StateLive, ServerPID: 99, ServerAlive: true}, nil, false},
		{blockdev.DeviceInfo{}, blockdev.ErrNoDevice, false},
		{blockdev.DeviceInfo{}, blockdev.ErrTimeout, true},
	} {
		err := mayOpen(t.Context(), "/srv/store", on, func(_ context.Context, id int) (blockdev.DeviceInfo, error) {
			if id != 5 {
				t.Errorf("asked for device %d", id)
			}
			return c.info, c.err
		})
		if (err != nil) != c.refused {
			t.Errorf("device %+v, %v: %v; want refused: %v", c.info, c.err, err, c.refused)
		}
		if err != nil && (!strings.Contains(err.Error(), "/srv/store") || !strings.Contains(err.Error(), "/dev/ublkb5, below /dev/dm-0")) {
			t.Errorf("the refusal does not name the store and the device: %v", err)
		}
	}
}
