package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
)

func TestTakeover(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b := w.attach(t, "a"), w.attach(t, "b")
	if _, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "c", Transport: "loop"}); err != nil {
		t.Fatal(err)
	}
	// Killed: the kernel keeps a; b and the loop device are gone; d is one that the state does not
	// know.
	unknown := protocol.Attachment{Volume: "d", Device: "/dev/ublkb9", Transport: "ublk", ID: 9}
	w.ublk.waiting = []protocol.Attachment{a.Attachment, unknown}
	w.start(t)
	w.d.Takeover(t.Context())
	wantNodes(t, w.attachedNodes(t), "/dev/ublkb0", "/dev/ublkb9")
	wantNodes(t, w.savedNodes(t), "/dev/ublkb0", "/dev/ublkb9")
	recovered, discarded := w.ublk.seen()
	slices.Sort(recovered)
	wantNodes(t, recovered, "/dev/ublkb0", "/dev/ublkb9")
	wantNodes(t, discarded, b.Device)
	_, discarded = w.loop.seen()
	wantNodes(t, discarded, "/dev/loop0")
}

func TestTakeoverOfUnfitDevice(t *testing.T) {
	w := newWorld(t, "a")
	a := w.attach(t, "a")
	w.ublk.waiting, w.ublk.broken = []protocol.Attachment{a.Attachment}, devices.ErrUnfit
	w.removedAtTakeover(t, a.Device)
}

func (w *world) removedAtTakeover(t *testing.T, node string) {
	t.Helper()
	w.start(t)
	w.d.Takeover(t.Context())
	wantNodes(t, w.attachedNodes(t))
	_, discarded := w.ublk.seen()
	wantNodes(t, discarded, node)
	wantNodes(t, w.savedNodes(t))
}

// A daemon that died while it made a device has left word of it, whatever became of the volume
// since.
func TestTakeoverOfUnstartedDevice(t *testing.T) {
	w := newWorld(t, "a")
	w.ublk.dying = true
	_, _ = w.c.Attach(t.Context(), protocol.Attach{Volume: "a"})
	s, err := devices.ReadList(w.dir)
	if err != nil || !slices.Equal(s.Starting, []string{"a"}) {
		t.Fatalf("when the device is made, the state is %+v, %v", s, err)
	}
	w.ublk.dying = false
	left := protocol.Attachment{Volume: "a", Device: "/dev/ublkb7", Transport: "ublk", ID: 7}
	delete(w.store.volumes, "a")
	w.ublk.set(devices.ErrUnfit, false, left)
	w.start(t)
	w.d.Takeover(t.Context())
	if !slices.Contains(w.ublk.asked, "a") {
		t.Errorf("devices of volumes %q were looked for", w.ublk.asked)
	}
	_, discarded := w.ublk.seen()
	wantNodes(t, discarded, left.Device)
	_, discarded = w.loop.seen()
	wantNodes(t, discarded, "a") // it may have been one of these
	if s, err := devices.ReadList(w.dir); err != nil || len(s.Attached)+len(s.Starting) > 0 {
		t.Errorf("afterwards the state is %+v, %v", s, err)
	}
}

// The partition table of a device is read when it is attached, and by the next daemon if the one
// that made the device did not live to see it read; a device that was attached is left alone.
func TestPartitionsAreScannedOnce(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.attach(t, "a")
	if n := w.ublk.device("a").scans; n != 1 || len(a.Notes) > 0 {
		t.Errorf("an attach has scanned %d times, with notes %q", n, a.Notes)
	}
	w.d.table.Begin("b")
	b := protocol.Attachment{Volume: "b", Device: "/dev/ublkb7", Transport: "ublk", ID: 7}
	w.ublk.set(nil, false, a.Attachment, b)
	w.start(t)
	w.d.Takeover(t.Context())
	for volume, want := range map[string]int{"a": 0, "b": 1} {
		if n := w.ublk.device(volume).scans; n != want {
			t.Errorf("taking over the device of volume %q has scanned %d times, want %d", volume, n, want)
		}
	}
}

// An attach whose scan does not end says so, and is an attach all the same.
func TestUnscannedPartitionsAreSaid(t *testing.T) {
	w := newWorld(t, "a")
	w.ublk.scanned = errors.New("the kernel is still reading it")
	a := w.attach(t, "a")
	if len(a.Notes) != 1 || !strings.Contains(a.Notes[0], "partitions may be missing: the kernel is still reading it") {
		t.Errorf("notes %q", a.Notes)
	}
	wantNodes(t, w.attachedNodes(t), a.Device)
}

// Devices that can't be asked for are not taken for gone: they may be in use.
func TestTakeoverWithoutList(t *testing.T) {
	for _, c := range []struct {
		name              string
		broken            error
		served, discarded []string
	}{
		{"there", nil, []string{"/dev/ublkb0"}, nil},
		{"not to be had", errors.New("no answer"), nil, nil},
		{"gone", devices.ErrUnfit, nil, []string{"/dev/ublkb0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "a")
			w.attach(t, "a")
			w.ublk.set(c.broken, true)
			w.ublk.unlisted = errors.New("GET_PARAMS of device 7: timed out")
			w.start(t)
			w.d.Takeover(t.Context())
			recovered, discarded := w.ublk.seen()
			wantNodes(t, append([]string{}, recovered...), c.served...)
			wantNodes(t, append([]string{}, discarded...), c.discarded...)
			if c.discarded == nil {
				wantNodes(t, w.savedNodes(t), "/dev/ublkb0")
			}
		})
	}
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	w := newWorld(t, "a")
	w.ublk.absent, w.loop.absent = errors.New("none"), errors.New("none")
	_, err := w.c.Attach(t.Context(), protocol.Attach{Volume: "a"})
	wantError(t, err, protocol.ErrNoTransport)
	if s, err := devices.ReadList(w.dir); err != nil || len(s.Starting) > 0 {
		t.Errorf("after an attach that failed the state is %+v, %v", s, err)
	}
}

func TestTakeoverAfterReboot(t *testing.T) {
	w := newWorld(t, "a")
	s := devices.List{Boot: "another", Attached: []protocol.Attachment{{Volume: "a", Device: "/dev/ublkb0", Transport: "ublk"}}}
	if err := s.Write(w.dir); err != nil {
		t.Fatal(err)
	}
	w.d.Takeover(t.Context())
	if _, discarded := w.ublk.seen(); len(discarded) > 0 {
		t.Errorf("%q were removed: they are somebody else's in this boot", discarded)
	}
	wantNodes(t, w.savedNodes(t))
}

// manyWaiting is a world whose daemon has died with a device of each of n volumes.
func manyWaiting(t *testing.T, n int) (w *world, waiting []protocol.Attachment) {
	t.Helper()
	var volumes []string
	for i := range n {
		volumes = append(volumes, fmt.Sprintf("v%03d", i))
	}
	w = newWorld(t, volumes...)
	for _, v := range volumes {
		waiting = append(waiting, w.attach(t, v).Attachment)
	}
	w.ublk.set(nil, true, waiting...)
	w.start(t)
	return w, waiting
}

// Devices are taken over side by side, and no more than maxRecoveries at a time.
func TestDevicesAreTakenOverSideBySide(t *testing.T) {
	const n = 3 * maxRecoveries
	w, _ := manyWaiting(t, n)
	var running, most atomic.Int64
	var once sync.Once
	full := make(chan struct{})
	w.ublk.recover = func(string) {
		now := running.Add(1)
		defer running.Add(-1)
		for before := most.Load(); now > before && !most.CompareAndSwap(before, now); before = most.Load() {
		}
		if now == maxRecoveries {
			once.Do(func() { close(full) })
		}
		select {
		case <-full: // nobody goes on until so many are under way
		case <-time.After(patience):
			once.Do(func() { close(full) })
		}
		time.Sleep(time.Millisecond)
	}
	w.d.Takeover(t.Context())
	if got := most.Load(); got != maxRecoveries {
		t.Errorf("%d devices were taken over at a time, want %d", got, maxRecoveries)
	}
	if nodes := w.attachedNodes(t); len(nodes) != n {
		t.Errorf("%d devices are served, want %d", len(nodes), n)
	}
}

// A device that does not answer keeps no other from being served.
func TestStuckDeviceDelaysNoOther(t *testing.T) {
	const n = 2 * maxRecoveries
	w, waiting := manyWaiting(t, n)
	release := make(chan struct{})
	w.ublk.recover = func(volume string) {
		if volume == waiting[0].Volume {
			<-release
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); w.d.Takeover(t.Context()) }()
	eventually(t, "the others are served", func() bool {
		list, err := w.c.Attachments(t.Context())
		if err != nil {
			return false
		}
		served := 0
		for _, a := range list {
			if a.State == protocol.StateServed {
				served++
			}
		}
		return served == n-1
	})
	v, err := w.c.Volume(t.Context(), waiting[0].Volume)
	if err != nil || len(v.Attached) != 1 || v.Attached[0].State != protocol.StateWaiting {
		t.Errorf("the stuck device is shown as %+v, %v", v.Attached, err)
	}
	close(release)
	<-done
	if nodes := w.attachedNodes(t); len(nodes) != n {
		t.Errorf("%d devices are served, want %d", len(nodes), n)
	}
}

// Whenever a takeover dies, the list on disk has every device that the kernel has, and each volume
// whose device was being made: the next daemon can tell by it what to look for. It is written a few
// times, not once a device.
func TestTakeoverThatDiesLosesNoDevice(t *testing.T) {
	const n = 40
	w, waiting := manyWaiting(t, n)
	unknown := protocol.Attachment{Volume: "unknown", Device: "/dev/ublkb999", Transport: "ublk", ID: 999}
	gone := waiting[n-1] // noted, and not there any more
	w.ublk.set(nil, true, append(slices.Clone(waiting[:n-1]), unknown)...)
	s, err := devices.ReadList(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Starting = []string{"unknown"}
	if err := s.Write(w.dir); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	written := map[uint64]bool{} // inodes of the list: each writing makes another file
	w.ublk.recover = func(string) {
		mu.Lock()
		defer mu.Unlock()
		s, err := devices.ReadList(w.dir)
		if err != nil || len(s.Attached) != n+1 || !slices.Equal(s.Starting, []string{"unknown"}) {
			t.Errorf("during the takeover the list has %d devices, starting %q, %v; want %d", len(s.Attached), s.Starting, err, n+1)
		}
		for _, a := range append(slices.Clone(waiting[:n-1]), unknown, gone) {
			if !slices.ContainsFunc(s.Attached, func(k protocol.Attachment) bool { return k.Device == a.Device && k.Volume == a.Volume }) {
				t.Errorf("during the takeover the list lacks %s", a.Device)
			}
		}
		fi, err := os.Stat(filepath.Join(w.dir, "attached.json"))
		if err != nil {
			t.Error(err)
			return
		}
		written[fi.Sys().(*syscall.Stat_t).Ino] = true
	}
	w.d.Takeover(t.Context())
	if len(written) > 3 {
		t.Errorf("the list was written %d times during the takeover of %d devices", len(written), n)
	}
	if s, err := devices.ReadList(w.dir); err != nil || len(s.Attached) != n || len(s.Starting) > 0 {
		t.Errorf("afterwards the list has %d devices, starting %q, %v; want %d", len(s.Attached), s.Starting, err, n)
	}
}

// A device that waits for another instance of a store has that instance's mark. It concerns the
// volume all the same, also one that was renamed, and no other volume.
func TestForeignDeviceConcernsItsVolume(t *testing.T) {
	id := uuid.New()
	for name, c := range map[string]struct {
		a    protocol.Attachment
		want bool
	}{
		"by its ID":           {protocol.Attachment{Volume: "old", VolumeID: id.String(), Mark: 17}, true},
		"by its name":         {protocol.Attachment{Volume: "a", Mark: 17}, true},
		"by its earlier name": {protocol.Attachment{Volume: "b", Mark: 17}, true},
		"another's ID":        {protocol.Attachment{Volume: "a", VolumeID: uuid.NewString(), Mark: 17}, false},
		"another's name":      {protocol.Attachment{Volume: "c", Mark: 17}, false},
	} {
		o := orphans{foreign: []protocol.Attachment{c.a}}
		if got := o.mayConcern(id, []string{"a", "b"}); got != c.want {
			t.Errorf("a foreign device that is known %s concerns the volume: %v, want %v", name, got, c.want)
		}
	}
}
