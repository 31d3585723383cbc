package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		_, giveA, err := turns.take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		_, giveB, err := turns.take(t.Context(), "b") // another's
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err = turns.take(short, "c", "a")
		wantError(t, err, context.DeadlineExceeded, "another change of a")
		if turns.isTaken("c") {
			t.Error("who waits for a turn has taken another")
		}
		got := make(chan struct{})
		go func() {
			_, give, err := turns.take(t.Context(), "b", "a")
			if err != nil {
				t.Error(err)
				return
			}
			close(got)
			give()
		}()
		for _, give := range []func(){giveA, giveB} {
			synctest.Wait()
			select {
			case <-got:
				t.Error("a turn was taken twice")
			default:
			}
			give()
		}
		<-got
	})
}

// The end of turns waits for the changes that are under way, then ends their contexts, and names
// those that do not end all the same.
func TestEndOfTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		begin := func(name string, change func(ctx context.Context)) {
			ctx, give, err := turns.take(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			go func() { defer give(); change(ctx) }()
		}
		hurried := make(chan error, 1)
		begin("quick", func(ctx context.Context) { time.Sleep(time.Second); hurried <- ctx.Err() })
		begin("slow", func(ctx context.Context) { <-ctx.Done() })
		began := time.Now()
		if err := turns.end(t.Context(), 2*time.Second); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("it took %v", took)
		}
		if err := <-hurried; err != nil {
			t.Errorf("a change that would have ended in time was given up: %v", err)
		}
		_, _, err := turns.take(t.Context(), "other")
		wantError(t, err, protocol.ErrStopping)

		turns.resume()
		begin("one that hangs", func(context.Context) { time.Sleep(time.Hour) })
		limit, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		wantError(t, turns.end(limit, time.Second), protocol.ErrBusy, "one that hangs")
		time.Sleep(2 * time.Hour) // until it ends
	})
}

// hang makes calls to the kernel for a device, or a mount, wait until free is called or their
// context ends.
type hang struct{ begun, freed chan struct{} }

func newHang(t *testing.T) *hang {
	h := &hang{make(chan struct{}, 10), make(chan struct{})}
	t.Cleanup(h.free)
	return h
}

func (h *hang) free() {
	select {
	case <-h.freed:
	default:
		close(h.freed)
	}
}

func (h *hang) wait(ctx context.Context) error {
	h.begun <- struct{}{}
	select {
	case <-h.freed:
		return nil
	case <-ctx.Done():
		return protocol.As(devices.ErrUnanswered, ctx.Err())
	}
}

// While a change of one device or mount hangs, all others go on.
func TestStuckChangeDelaysNoOther(t *testing.T) {
	for what, begin := range map[string]func(t *testing.T, w *world, h *hang) func() error{
		"attach": func(t *testing.T, w *world, h *hang) func() error {
			w.ublk.slow = map[string]*hang{"stuck": h}
			return func() error { _, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "stuck"}); return err }
		},
		"detach": func(t *testing.T, w *world, h *hang) func() error {
			w.attach(t, "stuck")
			w.ublk.device("stuck").hang(h)
			return func() error { _, err := w.c.Detach(t.Context(), protocol.Detach{Target: "stuck"}); return err }
		},
		"revival": func(t *testing.T, w *world, h *hang) func() error {
			a := w.attach(t, "stuck")
			w.d.reviveAfter = 0
			w.ublk.set(nil, true, a.Attachment)
			w.ublk.slow = map[string]*hang{"stuck": h}
			w.ublk.device("stuck").end("failed")
			return func() error { return nil }
		},
		"mount": func(t *testing.T, w *world, h *hang) func() error {
			dir := t.TempDir()
			w.mounter.slow = map[string]*hang{dir: h}
			return func() error { return w.c.Mount(t.Context(), protocol.Mount{Dir: dir}) }
		},
		"unmount": func(t *testing.T, w *world, h *hang) func() error {
			dir := t.TempDir()
			if err := w.c.Mount(t.Context(), protocol.Mount{Dir: dir}); err != nil {
				t.Fatal(err)
			}
			w.mounter.mounts[dir].slow = h
			return func() error { return w.c.Unmount(t.Context(), protocol.Unmount{Dir: dir}) }
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, "stuck", "other", "third", "idle")
			w.attach(t, "other")
			h := newHang(t)
			change, ended := begin(t, w, h), make(chan error, 1)
			go func() { ended <- change() }()
			<-h.begun
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			try := func(name string, err error) {
				t.Helper()
				if err != nil {
					t.Errorf("%s beside a stuck %s: %v", name, what, err)
				}
			}
			_, err := w.c.Stat(ctx)
			try("stat", err)
			_, err = w.c.Attach(ctx, protocol.Attach{Volume: "third"})
			try("attach", err)
			_, err = w.c.Detach(ctx, protocol.Detach{Target: "other"})
			try("detach", err)
			dir := t.TempDir()
			try("mount", w.c.Mount(ctx, protocol.Mount{Dir: dir}))
			try("unmount", w.c.Unmount(ctx, protocol.Unmount{Dir: dir}))
			_, err = w.c.RenameVolume(ctx, "idle", "renamed")
			try("rename", err)
			try("deletion", w.c.DeleteVolume(ctx, "renamed"))
			h.free()
			try("the stuck one", <-ended)
		})
	}
}

// A stop ends a change that is stuck, and releases all other devices meanwhile.
func TestStopBesideStuckChange(t *testing.T) {
	w := newWorld(t, "stuck", "unstuck", "making")
	w.d.patience = 10 * time.Millisecond
	w.attach(t, "unstuck")
	w.attach(t, "stuck")
	h := newHang(t)
	w.ublk.device("stuck").hang(h)
	w.ublk.slow = map[string]*hang{"making": h}
	ended := make(chan error, 2)
	go func() { _, err := w.c.Detach(t.Context(), protocol.Detach{Target: "stuck"}); ended <- err }()
	<-h.begun
	go func() { _, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "making"}); ended <- err }()
	<-h.begun
	released := make(chan protocol.Stopped, 1)
	go func() { released <- w.d.Release(t.Context(), false) }()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) && (err == nil || !strings.Contains(err.Error(), "canceled")) {
			t.Errorf("a change that the stop did not wait for: %v", err)
		}
	}
	<-h.begun // the stop detaches it
	eventually(t, "the other device is released", func() bool { return w.ublk.device("unstuck").ended() == "stopped" })
	h.free()
	s := <-released
	var nodes []string
	for _, a := range s.Detached {
		nodes = append(nodes, a.Volume)
	}
	if !slices.Equal(nodes, []string{"stuck", "unstuck"}) {
		t.Errorf("released %+v", s)
	}
	if k, taken := w.d.table.Taken("making"); taken {
		t.Errorf("a device that was being made is left as %+v", k)
	}
}

// A device for which the kernel does not answer delays neither the socket nor another device. It is
// shown as one that waits, nothing else is asked about it, and it is served when the kernel
// answers.
func TestTakeoverOfDeviceThatHangs(t *testing.T) {
	w, waiting := manyWaiting(t, 5)
	hung := waiting[2].Volume
	dir := t.TempDir()
	list, err := devices.ReadList(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	list.Restore = []protocol.Attachment{{Volume: "back", Transport: "ublk", ID: 77}}
	list.Mounts = []protocol.Mount{{Dir: dir}}
	if err := list.Write(w.dir); err != nil {
		t.Fatal(err)
	}
	w.store.volumes["back"] = objstore.VolumeInfo{Name: "back", MarkName: "back"}
	h := newHang(t)
	w.ublk.slow = map[string]*hang{hung: h}
	w.d.patience, w.d.retryFirst = 50*time.Millisecond, 10*time.Millisecond
	began := time.Now()
	w.d.Takeover(t.Context())
	if took := time.Since(began); took > patience/2 { // a takeover that waits for the device never ends
		t.Errorf("the takeover took %v", took)
	}
	if w.mounter.mounts[dir] == nil {
		t.Error("the mount is not back")
	}
	shown, err := w.c.Attachments(t.Context())
	if err != nil || len(shown) != 6 {
		t.Fatalf("%+v, %v", shown, err)
	}
	for _, a := range shown {
		if hangs := a.Volume == hung; (a.State == protocol.StateWaiting) != hangs || (a.Error != "") != hangs {
			t.Errorf("%s is %s, %q", a.Volume, a.State, a.Error)
		}
	}
	h.free()
	eventually(t, "the device that hung is served", func() bool {
		_, served := w.d.table.Taken(hung)
		return served && w.d.table.Find(hung, "") != nil
	})
	if _, discarded := w.ublk.seen(); len(discarded) > 0 {
		t.Errorf("%q were removed", discarded)
	}
}

// A device for which the kernel does not answer in time is not removed, even if it is not open, and
// tried again.
func TestUnansweredDeviceIsTriedAgain(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.set(protocol.As(devices.ErrUnanswered, errors.New("START_USER_RECOVERY: timed out")), false, a.Attachment)
	w.start(t)
	w.d.retryFirst = time.Millisecond
	w.d.Takeover(t.Context())
	w.triedOften(t)
	if got := w.waits(t, "a"); !strings.Contains(got.Error, "timed out") {
		t.Errorf("it is shown as %+v", got)
	}
	w.ublk.set(nil, false, a.Attachment)
	w.servedAgain(t)
	if _, discarded := w.ublk.seen(); len(discarded) > 0 {
		t.Errorf("%q were removed", discarded)
	}
}

// A client that does not wait any longer for its mount has none.
func TestMountThatIsGivenUp(t *testing.T) {
	w := newWorld(t, "a")
	dir := t.TempDir()
	h := newHang(t)
	w.mounter.slow = map[string]*hang{dir: h}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := w.d.serveMount(ctx, nil, protocol.Mount{Dir: dir})
		ended <- err
	}()
	<-h.begun
	cancel()
	wantError(t, <-ended, context.Canceled)
	h.free()
	eventually(t, "it is unmounted", func() bool { return w.d.mounts.at(dir) == nil && !w.d.turns.isTaken(turnAt(dir)) })
	if err := w.c.Mount(t.Context(), protocol.Mount{Dir: dir}); err != nil {
		t.Error(err)
	}
}
