package daemon

import (
	"errors"
	"testing"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// wantVolumes fails unless the table and the list on disk have these devices, by volume.
func (w *world) wantVolumes(t *testing.T, want map[string]string) {
	t.Helper()
	s, err := devices.ReadList(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for what, list := range map[string][]protocol.Attachment{"table": w.d.table.All(), "list": s.Attached} {
		got := map[string]string{}
		for _, a := range list {
			got[a.Volume] = a.Device
		}
		if len(got) != len(want) {
			t.Errorf("the %s has %v, want %v", what, got, want)
		}
		for volume, device := range want {
			if got[volume] != device {
				t.Errorf("the %s has %v, want %v", what, got, want)
			}
		}
	}
}

// A device goes on under its volume's new name: in lists, when its service fails, and when it is
// detached; and the old name is free.
func TestRenameAttached(t *testing.T) {
	w := newWorld(t, "a")
	w.d.reviveAfter = 0
	a := w.attach(t, "a")
	dev := w.ublk.device("a")
	if v, err := w.c.RenameVolume(t.Context(), "a", "b"); err != nil || v.Name != "b" || len(v.Attached) != 1 {
		t.Fatalf("renamed: %+v, %v", v, err)
	}
	w.wantVolumes(t, map[string]string{"b": a.Device})
	if _, err := w.c.CreateVolume(t.Context(), protocol.CreateVolume{Name: "a", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	again := w.attach(t, "a")
	w.wantVolumes(t, map[string]string{"a": again.Device, "b": a.Device})
	if err := w.c.DeleteVolume(t.Context(), "b"); !errors.Is(err, objstore.ErrInUse) {
		t.Errorf("a renamed volume with a device is deleted: %v", err)
	}
	if _, err := w.c.RenameVolume(t.Context(), "b", "a"); !errors.Is(err, objstore.ErrExists) {
		t.Errorf("a name is given twice: %v", err)
	}

	w.ublk.set(nil, true, protocol.Attachment{Volume: "b", Device: a.Device, Transport: "ublk"})
	dev.end("failed") // whoever watches for that knows the device from before
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if recovered, _ := w.ublk.seen(); len(recovered) == 1 && w.d.table.Find("b", "") != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the device of a renamed volume is not served again")
		}
	}
	w.wantVolumes(t, map[string]string{"a": again.Device, "b": a.Device})
	if at, err := w.c.Detach(t.Context(), protocol.Detach{Target: "b"}); err != nil || at.Device != a.Device {
		t.Errorf("detached: %+v, %v", at, err)
	}
	w.wantVolumes(t, map[string]string{"a": again.Device})
}

// What a snapshot's device shows has its new names.
func TestRenameAttachedSnapshot(t *testing.T) {
	w := newWorld(t, "a")
	if _, err := w.store.CreateSnapshot(t.Context(), "a", "s"); err != nil {
		t.Fatal(err)
	}
	at, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "a", Snapshot: "s"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.c.RenameSnapshot(t.Context(), "a", "s", "z"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.c.RenameVolume(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	if list := w.d.table.All(); len(list) != 1 || list[0].Snapshot != "b@z" {
		t.Errorf("the table has %+v, want the device of b@z", list)
	}
	if got, err := w.c.Detach(t.Context(), protocol.Detach{Target: "b@z"}); err != nil || got.Device != at.Device {
		t.Errorf("detached: %+v, %v", got, err)
	}
}

// A loop device's file has the volume's name.
func TestRenameUnderLoopDevice(t *testing.T) {
	w := newWorld(t, "a")
	if _, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "a", Transport: "loop"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.c.RenameVolume(t.Context(), "a", "b"); !errors.Is(err, objstore.ErrInUse) {
		t.Errorf("a volume with a loop device is renamed: %v", err)
	}
}

// A list that knows old names, since the daemon died before it was written, or volumes were renamed
// without a daemon: its devices are known by their marks.
func TestRenamedSinceListWasWritten(t *testing.T) {
	w := newWorld(t)
	w.inst = instance.Instance{UUID: "u", ID: "i"}
	for name, markName := range map[string]string{"b": "a", "a": "5c40", "e": "d"} {
		w.store.volumes[name] = objstore.VolumeInfo{Name: name, MarkName: markName, Size: 1 << 20, BlockSize: 512}
	}
	since := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	list := devices.List{
		Store: "u", Instance: "i", Boot: boot(w.d.log),
		Attached: []protocol.Attachment{{Volume: "a", Device: "/dev/ublkb7", Transport: "ublk", ID: 7, Since: since, Mark: w.inst.Mark("a")}},
		Restore:  []protocol.Attachment{{Volume: "d", Device: "/dev/ublkb8", Transport: "ublk", ID: 8, Mark: w.inst.Mark("d")}},
	}
	if err := list.Write(w.dir); err != nil {
		t.Fatal(err)
	}
	w.ublk.set(nil, true, protocol.Attachment{Volume: "b", Device: "/dev/ublkb7", Transport: "ublk", ID: 7, Mark: w.inst.Mark("a")})
	w.start(t)
	w.d.Takeover(t.Context())
	all := w.d.table.All()
	if len(all) != 2 || all[0].Volume != "b" || all[0].Device != "/dev/ublkb7" || !all[0].Since.Equal(since) || all[1].Volume != "e" {
		t.Errorf("taken over: %+v, want the devices of b and e", all)
	}
}

// A rollback is refused under a device that waits, of which the store does not know.
func TestRollbackUnderDevice(t *testing.T) {
	w := newWorld(t, "a")
	r := protocol.RollbackVolume{Snapshot: "s"}
	a := w.attach(t, "a")
	if _, err := w.c.RollbackVolume(t.Context(), "a", r); !errors.Is(err, objstore.ErrInUse) {
		t.Errorf("rollback under a device: %v", err)
	}
	w.ublk.set(errors.New("broken"), true, a.Attachment)
	w.ublk.device("a").end("failed")
	for end := time.Now().Add(patience); w.d.table.FindWaiting("a", "") == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the device does not wait")
		}
	}
	if _, err := w.c.RollbackVolume(t.Context(), "a", r); !errors.Is(err, objstore.ErrInUse) {
		t.Errorf("rollback under a device that waits: %v", err)
	}
	if _, err := w.c.Detach(t.Context(), protocol.Detach{Target: "a", Force: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := w.c.RollbackVolume(t.Context(), "a", r); err != nil || got.KeptSnapshot != "before-s" {
		t.Errorf("rolled back: %+v, %v", got, err)
	}
}
