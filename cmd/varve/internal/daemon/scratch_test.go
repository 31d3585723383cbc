package daemon

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (w *world) attachSnapshot(t *testing.T, writable bool) protocol.Attached {
	t.Helper()
	a, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "data", Snapshot: "one", Writable: writable})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wantScratch fails unless there are so many scratch volumes.
func (w *world) wantScratch(t *testing.T, n int) {
	t.Helper()
	if list := w.store.ScratchVolumes(); len(list) != n {
		t.Errorf("scratch volumes are %+v, want %d", list, n)
	}
}

func TestAttachSnapshot(t *testing.T) {
	w := newWorld(t, "data")
	w.attach(t, "data")
	ro, rw := w.attachSnapshot(t, false), w.attachSnapshot(t, true)
	if !ro.ReadOnly || rw.ReadOnly || ro.Snapshot != "data@one" || rw.Snapshot != "data@one" {
		t.Errorf("attached %+v and %+v", ro, rw)
	}
	w.wantScratch(t, 2)
	err := w.c.DeleteSnapshot(t.Context(), "data", "one")
	wantError(t, err, objstore.ErrInUse, "data@one", ro.Device)
	_, err = w.c.Detach(t.Context(), protocol.Detach{Target: "data@one"})
	wantError(t, err, objstore.ErrInvalid, ro.Device, rw.Device)
	for _, target := range []string{ro.Device, "data@one"} {
		if _, err := w.c.Detach(t.Context(), protocol.Detach{Target: target}); err != nil {
			t.Errorf("detach %s: %v", target, err)
		}
	}
	w.wantScratch(t, 0)
	_, err = w.c.Detach(t.Context(), protocol.Detach{Target: "data@one"})
	wantError(t, err, objstore.ErrNotFound, "data@one")
}

// A scratch volume whose device was not made, was lost, or is let go when the daemon ends, is
// deleted.
func TestScratchVolumeIsSwept(t *testing.T) {
	w := newWorld(t, "data")
	w.ublk.absent = errors.New("no ublk")
	w.loop.absent = errors.New("no loop")
	if _, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "data", Snapshot: "one"}); !errors.Is(err, protocol.ErrNoTransport) {
		t.Fatal(err)
	}
	w.wantScratch(t, 0)

	w.ublk.absent = nil
	w.attachSnapshot(t, true)
	w.ublk.device("scratch-1").end("failed") // and the kernel has not kept it
	eventually(t, "the scratch volume of a lost device is gone", func() bool { return len(w.store.ScratchVolumes()) == 0 })

	w.attachSnapshot(t, true)
	w.d.Release(t.Context(), false)
	w.wantScratch(t, 0)
}

// A daemon that comes after a killed one keeps what is under a device that waits, and deletes the
// rest; all of it, if it can't know what waits.
func TestScratchVolumesOfADeadDaemon(t *testing.T) {
	for _, unlisted := range []error{nil, errors.New("a device does not answer")} {
		w := newWorld(t, "data")
		used := w.attachSnapshot(t, true)
		w.attachSnapshot(t, false)
		w.wantScratch(t, 2)
		w.ublk.set(nil, true, used.Attachment)
		w.ublk.unlisted = unlisted
		w.start(t)
		w.d.Takeover(t.Context())
		if unlisted != nil {
			w.wantScratch(t, 2)
			continue
		}
		w.wantScratch(t, 1)
		if list := w.d.table.Attachments(); len(list) != 1 || list[0].Volume != used.Volume || list[0].Snapshot != "data@one" {
			t.Errorf("taken over: %+v, want %+v", list, used)
		}
	}
}

// What is under a device that the daemon may not look at, or that was listed in another place of
// the store, stays: the device may be in use, and somebody may say yet that it is this store's.
func TestScratchVolumesOfUncertainDevices(t *testing.T) {
	w := newWorld(t, "data")
	w.attachSnapshot(t, true)
	w.ublk.stuck = errors.New("ublk devices need CAP_SYS_ADMIN")
	w.start(t)
	w.d.Takeover(t.Context())
	w.wantScratch(t, 1)

	w = newWorld(t, "data")
	w.attachSnapshot(t, true)
	s, err := devices.ReadList(w.d.files)
	if err != nil {
		t.Fatal(err)
	}
	s.Instance = "another place"
	if err := s.Write(w.d.files); err != nil {
		t.Fatal(err)
	}
	w.start(t)
	w.d.Takeover(t.Context())
	w.wantScratch(t, 1)
}

// A device that a client has mounted goes when it is unmounted, under the next daemon too.
func TestAutoDetach(t *testing.T) {
	w := newWorld(t, "data")
	a := w.attachSnapshot(t, true)
	w.ublk.device(a.Volume).set(true)
	wantError(t, w.c.AutoDetach(t.Context(), protocol.AutoDetach{Device: "/dev/none", Dir: "/mnt"}), objstore.ErrNotFound, "/dev/none")
	if err := w.c.AutoDetach(t.Context(), protocol.AutoDetach{Device: a.Device, Dir: "/mnt"}); err != nil {
		t.Fatal(err)
	}
	w.ublk.set(nil, true, a.Attachment)
	w.start(t)
	w.d.Takeover(t.Context())
	dev := w.ublk.device(a.Volume)
	dev.set(true)
	list := w.d.table.Attachments()
	if len(list) != 1 || list[0].MountedAt != "/mnt" {
		t.Fatalf("taken over: %+v, want one mounted at /mnt", list)
	}
	dev.set(false)
	eventually(t, "the device is detached", func() bool { return dev.ended() == "stopped" })
	eventually(t, "its scratch volume is gone", func() bool { return len(w.store.ScratchVolumes()) == 0 })
}

// pauseAt is a log that stops who writes a message, until goOn is closed.
type pauseAt struct {
	slog.Handler
	message       string
	reached, goOn chan struct{}
}

func (p *pauseAt) Handle(_ context.Context, r slog.Record) error {
	if r.Message == p.message {
		close(p.reached)
		<-p.goOn
	}
	return nil
}

func (p *pauseAt) Enabled(context.Context, slog.Level) bool { return true }

func (p *pauseAt) WithAttrs([]slog.Attr) slog.Handler { return p }

// Whoever detaches a scratch volume that the daemon is about to detach by itself is answered when it is
// deleted.
func TestDetachBesideAutoDetach(t *testing.T) {
	w := newWorld(t, "data")
	p := &pauseAt{Handler: slog.DiscardHandler, message: "detached", reached: make(chan struct{}), goOn: make(chan struct{})}
	w.d.log = slog.New(p)
	a := w.attachSnapshot(t, true)
	dev := w.ublk.device(a.Volume)
	dev.set(true)
	if err := w.c.AutoDetach(t.Context(), protocol.AutoDetach{Device: a.Device, Dir: "/mnt"}); err != nil {
		t.Fatal(err)
	}
	dev.set(false)
	<-p.reached // it is off the table, and its scratch volume is there
	ended := make(chan error, 1)
	go func() {
		_, err := w.c.Detach(t.Context(), protocol.Detach{Target: a.Volume})
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Errorf("answered while the scratch volume is there: %v", err)
		ended <- err
	case <-time.After(100 * time.Millisecond):
	}
	close(p.goOn)
	wantError(t, <-ended, objstore.ErrNotFound, a.Volume)
	w.wantScratch(t, 0)
}
