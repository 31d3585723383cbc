package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
)

// A daemon that was stopped, and the next one: devices and mounts are back, also a mount that was
// in use.
func TestRestart(t *testing.T) {
	w := newWorld(t, "idle", "used", "gone", "snap")
	idle, used := w.attach(t, "idle"), w.attach(t, "used")
	w.attach(t, "gone")
	w.attachSnapshotOf(t, "snap")
	w.ublk.device("used").set(true)
	dir := t.TempDir()
	m := protocol.Mount{Dir: dir, AllowOther: true, SharedLive: true}
	if err := w.c.Mount(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	w.mounter.mounts[dir].busy = true
	s, err := w.c.Stop(t.Context(), protocol.Stop{})
	if err != nil || len(s.Left) != 1 || len(s.Unmounted) != 1 || !w.mounter.mounts[dir].forced {
		t.Fatalf("stopped: %+v, %v", s, err)
	}
	w.d.Release(t.Context(), false) // as run does when it ends
	w.d.watchers.Wait()

	delete(w.mounter.mounts, dir)
	w.ublk.set(nil, true, used.Attachment)
	if err := w.store.DeleteVolume(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // killed in between, it is the same
		w.start(t)
		w.d.Takeover(t.Context())
		list := w.d.table.Attachments()
		if len(list) != 2 || list[0].Volume != "idle" || list[1].Device != used.Device {
			t.Fatalf("after the restart: %+v, want %+v and %+v", list, idle, used)
		}
		if got := w.d.mounts.list(); len(got) != 1 || got[0] != m || w.mounter.mounts[dir] == nil {
			t.Fatalf("mounts after the restart: %+v, want %+v", got, m)
		}
		w.ublk.set(nil, true, list...)
	}
	if s, err := devices.ReadList(w.dir); err != nil || len(s.Restore) > 0 || len(s.Attached) != 2 || len(s.Mounts) != 1 {
		t.Errorf("the list after the restart is %+v, %v", s, err)
	}
}

// All mounts of a daemon that was stopped are back, each once.
func TestRestartWithManyMounts(t *testing.T) {
	w := newWorld(t)
	want := []protocol.Mount{}
	for range 5 {
		m := protocol.Mount{Dir: t.TempDir()}
		if err := w.c.Mount(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		want = append(want, m)
	}
	for range 3 {
		if _, err := w.c.Stop(t.Context(), protocol.Stop{}); err != nil {
			t.Fatal(err)
		}
		s, err := devices.ReadList(w.dir)
		if err != nil || len(s.Mounts) != len(want) {
			t.Fatalf("the list of a stopped daemon has the mounts %+v, %v", s.Mounts, err)
		}
		w.start(t)
		w.d.Takeover(t.Context())
		if got := w.d.mounts.list(); !slices.Equal(got, want) {
			t.Fatalf("mounts after the restart: %+v, want %+v", got, want)
		}
	}
}

func (w *world) attachSnapshotOf(t *testing.T, volume string) {
	t.Helper()
	if _, err := w.c.Attach(t.Context(), protocol.Attach{Volume: volume, Snapshot: "one"}); err != nil {
		t.Fatal(err)
	}
}

// A daemon that dies while it brings things back leaves the rest to the next one.
func TestRestartThatDies(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.attach(t, "a")
	w.attach(t, "b")
	dir := t.TempDir()
	if err := w.c.Mount(t.Context(), protocol.Mount{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	w.d.Release(t.Context(), false)
	w.d.watchers.Wait()
	w.start(t)
	// It dies while it attaches: the next one has the list of that moment.
	list := filepath.Join(w.dir, "attached.json")
	var atDeath []byte
	w.ublk.attaching = func(string) {
		if atDeath != nil {
			return
		}
		var err error
		if atDeath, err = os.ReadFile(list); err != nil {
			t.Error(err)
		}
	}
	w.d.Takeover(t.Context())
	w.ublk.attaching = nil
	if err := os.WriteFile(list, atDeath, 0o600); err != nil {
		t.Fatal(err)
	}
	delete(w.mounter.mounts, dir)
	w.start(t)
	w.d.Takeover(t.Context())
	if list := w.d.table.Attachments(); len(list) != 2 || w.mounter.mounts[dir] == nil {
		t.Errorf("after a restart that died and another: %+v, mounted %v", list, w.mounter.mounts[dir])
	}
}

// Stopped for good, nothing comes back; nor in another boot.
func TestStopForGood(t *testing.T) {
	for _, boot := range []string{"", "another"} {
		w := newWorld(t, "a")
		w.attach(t, "a")
		dir := t.TempDir()
		if err := w.c.Mount(t.Context(), protocol.Mount{Dir: dir}); err != nil {
			t.Fatal(err)
		}
		w.d.Release(t.Context(), boot == "")
		w.d.watchers.Wait() // as a daemon does that ends: they write the list too
		if boot != "" {
			s, err := devices.ReadList(w.dir)
			if err != nil || len(s.Restore) != 1 || len(s.Mounts) != 1 {
				t.Fatalf("the list of a stopped daemon is %+v, %v", s, err)
			}
			s.Boot = boot
			if err := s.Write(w.dir); err != nil {
				t.Fatal(err)
			}
		} else if _, err := os.Stat(filepath.Join(w.dir, "attached.json")); !os.IsNotExist(err) {
			t.Errorf("a list is left: %v", err)
		}
		delete(w.mounter.mounts, dir)
		w.start(t)
		w.d.Takeover(t.Context())
		if list := w.d.table.Attachments(); len(list) > 0 || w.mounter.mounts[dir] != nil {
			t.Errorf("boot %q: %+v are back, mounted %v", boot, list, w.mounter.mounts[dir])
		}
	}
	w := newWorld(t)
	_, err := w.c.Stop(t.Context(), protocol.Stop{Detach: true})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, w.c.Mount(t.Context(), protocol.Mount{Dir: t.TempDir()}), protocol.ErrStopping)
}
