package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// world is a daemon over fakes.
type world struct {
	dir        string
	store      *fakeStore
	ublk, loop *fakeTransport
	mounter    *fakeMounter
	inst       instance.Instance
	d          *Daemon
	c          *client.Client
}

func newWorld(t *testing.T, volumes ...string) *world {
	t.Helper()
	w := &world{
		dir: t.TempDir(), store: newFakeStore(volumes...), ublk: newFakeTransport("ublkb", true),
		loop: newFakeTransport("loop", false), mounter: &fakeMounter{},
	}
	w.start(t)
	return w
}

// start begins a daemon on the same machine, as after the death of the one before.
func (w *world) start(t *testing.T) {
	t.Helper()
	// The fakes' kinds name their nodes; the daemon knows them as ublk and loop.
	d := New(w.dir, w.store, Options{ublk: kind{w.ublk, "ublk"}, loop: kind{w.loop, "loop"}, mounter: w.mounter, inst: w.inst})
	w.d, w.c = d, client.Local(d.Handler(), func() error { return nil })
	t.Cleanup(func() {
		d.Release(context.Background(), true)
		d.watchers.Wait()
	})
}

// kind returns a fake's attachments the name of their transport.
type kind struct {
	*fakeTransport
	name string
}

func (k kind) Attach(ctx context.Context, r protocol.Attach) (devices.Device, protocol.Attachment, error) {
	d, a, err := k.fakeTransport.Attach(ctx, r)
	a.Transport = k.name
	return d, a, err
}

func (w *world) attach(t *testing.T, volume string) protocol.Attached {
	t.Helper()
	a, err := w.c.Attach(t.Context(), protocol.Attach{Volume: volume})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// attachedNodes are the devices that a stat shows, in order of volume.
func (w *world) attachedNodes(t *testing.T) []string {
	t.Helper()
	s, err := w.c.Stat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	nodes := []string{}
	for _, a := range s.Attached {
		nodes = append(nodes, a.Device)
	}
	return nodes
}

func (w *world) savedNodes(t *testing.T) []string {
	t.Helper()
	s, err := devices.ReadList(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	nodes := []string{}
	for _, a := range s.Attached {
		nodes = append(nodes, a.Device)
	}
	slices.Sort(nodes)
	return nodes
}

func wantError(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func wantNodes(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, append([]string{}, want...)) {
		t.Errorf("devices are %q, want %q", got, want)
	}
}

// patience is for what takes milliseconds on an idle machine.
const patience = time.Minute

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestAttachAndDetach(t *testing.T) {
	w := newWorld(t, "a", "b")
	wantNodes(t, []string{w.attach(t, "a").Device, w.attach(t, "b").Device}, "/dev/ublkb0", "/dev/ublkb1")
	wantNodes(t, w.attachedNodes(t), "/dev/ublkb0", "/dev/ublkb1")
	wantNodes(t, w.savedNodes(t), "/dev/ublkb0", "/dev/ublkb1")

	_, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "a", Transport: "loop"})
	wantError(t, err, objstore.ErrInUse, `"a"`, "/dev/ublkb0")
	_, err = w.c.Attach(t.Context(), protocol.Attach{Volume: "nope"})
	wantError(t, err, objstore.ErrNotFound, "nope")
	wantError(t, w.c.DeleteVolume(t.Context(), "a"), objstore.ErrInUse, "/dev/ublkb0")

	w.ublk.device("a").set(true)
	_, err = w.c.Detach(t.Context(), protocol.Detach{Target: "a"})
	wantError(t, err, protocol.ErrBusy, "/dev/ublkb0", "--force")
	wantNodes(t, w.attachedNodes(t), "/dev/ublkb0", "/dev/ublkb1")
	if _, err := w.c.Detach(t.Context(), protocol.Detach{Target: "/dev/ublkb0", Force: true}); err != nil {
		t.Fatal(err)
	}
	if how := w.ublk.device("a").ended(); how != "forced" {
		t.Errorf("device was %q, want forced", how)
	}
	if _, err := w.c.Detach(t.Context(), protocol.Detach{Target: "b"}); err != nil {
		t.Fatal(err)
	}
	_, err = w.c.Detach(t.Context(), protocol.Detach{Target: "b"})
	wantError(t, err, objstore.ErrNotFound, `"b"`)
	wantNodes(t, w.savedNodes(t))
	if err := w.c.DeleteVolume(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

func TestAttachChoosesTransport(t *testing.T) {
	w := newWorld(t, "a")
	w.ublk.absent = errors.New("no /dev/ublk-control")
	_, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "a", Transport: "ublk"})
	wantError(t, err, protocol.ErrNoTransport, "/dev/ublk-control")
	_, err = w.c.Attach(t.Context(), protocol.Attach{Volume: "a", CopyMode: "zero"})
	wantError(t, err, protocol.ErrNoTransport, "zero", "/dev/ublk-control")
	_, err = w.c.Attach(t.Context(), protocol.Attach{Volume: "a", Transport: "loop", Queues: 2})
	wantError(t, err, objstore.ErrInvalid, "queues")
	a := w.attach(t, "a")
	if a.Device != "/dev/loop0" || len(a.Notes) != 2 || !strings.Contains(a.Notes[0], "/dev/ublk-control") {
		t.Errorf("attached as %+v, want a loop device and a note why", a)
	}
}

// A device whose removal fails when it has ended is not listed as served for ever, and what is left
// of it is removed.
func TestDetachThatFailsHalfway(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.set(devices.ErrUnfit, false, a.Attachment) // what is left of it
	dev := w.ublk.device("a")
	dev.half = true
	dev.fails(errors.New("no answer to DEL_DEV"))
	if _, err := w.c.Detach(t.Context(), protocol.Detach{Target: "a"}); err == nil || !strings.Contains(err.Error(), "DEL_DEV") {
		t.Errorf("detach: %v", err)
	}
	eventually(t, "what is left is removed", func() bool {
		_, discarded := w.ublk.seen()
		return slices.Equal(discarded, []string{a.Device}) && len(w.attachedNodes(t)) == 0
	})
	wantNodes(t, w.savedNodes(t))
	w.attach(t, "a")
}

func TestReleaseLeavesOpenDevices(t *testing.T) {
	w := newWorld(t, "idle", "open")
	w.attach(t, "idle")
	w.attach(t, "open")
	w.ublk.device("open").set(true)
	for _, k := range w.d.table.Served() {
		k.Mark = 1<<63 | 1
	}
	s, err := w.c.Stop(t.Context(), protocol.Stop{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range append(s.Left, s.Detached...) {
		if a.Mark != 0 {
			t.Errorf("%s is told with its mark", a.Device)
		}
	}
	if len(s.Left) != 1 || s.Left[0].Volume != "open" || len(s.Detached) != 1 || s.Detached[0].Volume != "idle" || len(s.Notes) != 1 {
		t.Errorf("stopped: %+v", s)
	}
	select {
	case <-w.d.stop:
	default:
		t.Error("the daemon was not told to end")
	}
	if how := w.ublk.device("open").ended(); how != "left" {
		t.Errorf("the open device was %q, want left", how)
	}
	wantNodes(t, w.savedNodes(t), "/dev/ublkb1")
	_, err = w.c.Attach(t.Context(), protocol.Attach{Volume: "idle"})
	wantError(t, err, protocol.ErrStopping)
}

func TestStopWithOpenLoopDevice(t *testing.T) {
	w := newWorld(t, "a", "b")
	if _, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "a", Transport: "loop"}); err != nil {
		t.Fatal(err)
	}
	w.attach(t, "b")
	w.loop.device("a").set(true)
	_, err := w.c.Stop(t.Context(), protocol.Stop{})
	wantError(t, err, protocol.ErrBusy, "/dev/loop0", "--detach")
	wantNodes(t, w.attachedNodes(t), "/dev/loop0", "/dev/ublkb0") // a refusal changes nothing
	s, err := w.c.Stop(t.Context(), protocol.Stop{Detach: true})
	if err != nil || len(s.Detached) != 2 || w.loop.device("a").ended() != "forced" {
		t.Errorf("stop --detach: %+v, %v; the device was %q", s, err, w.loop.device("a").ended())
	}
	wantNodes(t, w.savedNodes(t))
}

func TestSignalForcesOpenLoopDevice(t *testing.T) {
	w := newWorld(t, "a")
	w.ublk.absent = errors.New("none")
	w.attach(t, "a")
	w.loop.device("a").set(true)
	s := w.d.Release(t.Context(), false)
	if w.loop.device("a").ended() != "forced" || len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "/dev/loop0") {
		t.Errorf("released: %+v; the device was %q", s, w.loop.device("a").ended())
	}
}

// A device or mount that can't be taken away does not keep the daemon from ending: one that can
// wait does.
func TestReleaseOfWhatDoesNotGo(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.attach(t, "a")
	if _, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "b", Transport: "loop"}); err != nil {
		t.Fatal(err)
	}
	w.ublk.device("a").fails(errors.New("stuck"))
	w.loop.device("b").fails(errors.New("stuck"))
	s := w.d.Release(t.Context(), false)
	if len(s.Left) != 1 || s.Left[0].Volume != "a" || len(s.Detached) != 0 || len(s.Notes) != 3 || !strings.Contains(s.Notes[0]+s.Notes[1], "stuck") {
		t.Errorf("released: %+v", s)
	}
	if how := w.ublk.device("a").ended(); how != "left" {
		t.Errorf("the device was %q, want left", how)
	}
	wantNodes(t, w.savedNodes(t), "/dev/loop0", "/dev/ublkb0")
	if err := w.d.awaitEnds(10 * time.Millisecond); err == nil {
		t.Error("a device that is stuck has ended")
	}
	w.loop.device("b").fails(nil)
}

func TestDeviceThatEndsByItself(t *testing.T) {
	w := newWorld(t, "a")
	w.attach(t, "a")
	w.ublk.device("a").end("vanished")
	eventually(t, "the device is off the list", func() bool { return len(w.attachedNodes(t)) == 0 })
	wantNodes(t, w.savedNodes(t))
	w.attach(t, "a")
}

func TestDeviceIsRevived(t *testing.T) {
	w := newWorld(t, "a")
	w.d.reviveAfter = 0
	a := w.attach(t, "a")
	w.ublk.mu.Lock()
	w.ublk.waiting = []protocol.Attachment{a.Attachment}
	w.ublk.mu.Unlock()
	w.ublk.device("a").end("failed")
	eventually(t, "the device is served again", func() bool {
		recovered, _ := w.ublk.seen()
		return len(recovered) == 1 && len(w.attachedNodes(t)) == 1
	})
}

func TestLessThanAsked(t *testing.T) {
	for _, c := range []struct {
		queues, depth, gotQueues, gotDepth int
		want                               string
	}{
		{0, 0, 1, 128, ""},
		{1, 128, 1, 128, ""},
		{4, 0, 1, 128, "--queues 4 became 1"},
		{0, 4096, 1, 1024, "--depth 4096 became 1024"},
	} {
		got := strings.Join(LessThanAsked(c.queues, c.depth, c.gotQueues, c.gotDepth), "\n")
		if (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// Whoever asks a daemon whose store was moved hears where it is now.
func TestStatOfMovedStore(t *testing.T) {
	w := newWorld(t, "a")
	dir, err := os.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	w.d.files = filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())))
	moved := filepath.Join(t.TempDir(), "moved")
	for _, want := range []string{w.dir, moved} {
		if want == moved {
			if err := os.Rename(w.dir, moved); err != nil {
				t.Fatal(err)
			}
		}
		s, err := w.c.Stat(t.Context())
		if err != nil || s.Daemon == nil || s.Daemon.Store != want || s.Path != want {
			t.Errorf("stat says %+v, path %s, %v; the store is at %s", s.Daemon, s.Path, err, want)
		}
	}
}
