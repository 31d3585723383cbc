package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"varve/blockdev"
	"varve/cmd/varve/internal/instance"
	"varve/objstore"
	"varve/objstore/index"
)

// viewOf is what a process sees that may not ask the driver, on a machine with the devices.
func viewOf(t *testing.T, err error, devices ...string) view {
	t.Helper()
	class := filepath.Join(t.TempDir(), "ublk-char")
	for _, d := range devices {
		if err := os.MkdirAll(filepath.Join(class, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return view{class: class, list: func(context.Context) ([]blockdev.DeviceInfo, error) { return nil, err }}
}

func TestHiddenDevices(t *testing.T) {
	noSysfs := viewOf(t, blockdev.ErrNoUblk)
	noSysfs.class = filepath.Join(t.TempDir(), "class", "ublk-char")
	for _, c := range []struct {
		name string
		view view
		want bool
	}{
		{"no driver", viewOf(t, blockdev.ErrNoUblk), false},
		{"a container", viewOf(t, blockdev.ErrNoUblk, "ublkc0"), true},
		{"no permission", viewOf(t, blockdev.ErrPermission, "ublkc0"), true},
		{"no permission, and no devices", viewOf(t, blockdev.ErrPermission), false},
		{"no sysfs", noSysfs, true},
		{"all are listed", viewOf(t, nil, "ublkc0"), false},
		{"one does not answer", viewOf(t, errors.New("timed out"), "ublkc0"), false}, // devices returns that error
	} {
		if got := c.view.hidden(t.Context()); got != c.want {
			t.Errorf("%s: devices are hidden: %v, want %v", c.name, got, c.want)
		}
	}
}

// The throwaway layer of a snapshot's device stays when the daemon can't see the machine's devices,
// of which one may lie on it; it goes when the machine has none.
func TestScratchVolumeOfHiddenDeviceStays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := objstore.Init(dir, objstore.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := objstore.Open(t.Context(), dir, objstore.Options{Index: index.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err = s.CreateVolume(t.Context(), "a", objstore.VolumeOptions{Size: 1 << 20}); err == nil {
		_, err = s.CreateSnapshot(t.Context(), "a", "one")
	}
	if err == nil {
		_, err = s.CreateScratch(t.Context(), "a", "one")
	}
	if err != nil {
		t.Fatal(err)
	}
	inst, err := instance.At(dir, "u")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		view view
		want int
	}{{viewOf(t, blockdev.ErrNoUblk, "ublkc0"), 1}, {viewOf(t, blockdev.ErrNoUblk), 0}} {
		ublk := newUblk(s, inst, slog.New(slog.DiscardHandler))
		ublk.seen = c.view
		d := New(dir, s, Options{ublk: ublk, inst: inst})
		d.Takeover(t.Context())
		if n := len(s.ScratchVolumes()); n != c.want {
			t.Errorf("after a takeover there are %d scratch volumes, want %d", n, c.want)
		}
		d.Release(t.Context(), true)
		d.watchers.Wait()
	}
}
