//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/failpoint"
)

// failpointNode returns a node whose daemons can be made to die or to fail.
func failpointNode(ctx context.Context, t *testing.T) *node {
	t.Helper()
	n := newNode(ctx, t)
	if n.program = os.Getenv("VARVE_BIN_FAILPOINT"); n.program == "" {
		t.Fatal("VARVE_BIN_FAILPOINT is not set: a varve that is built with -tags failpoint")
	}
	return n
}

// charDevices returns the ublk devices of the machine, started or not.
func charDevices(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("/dev/ublkc[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestDeadDeviceRemoved: a daemon that is killed while it creates or removes a device leaves a
// /dev/ublkcN that cannot be served or opened. The store's next daemon removes it, and leaves those
// of other stores alone.
func TestDeadDeviceRemoved(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	other := failpointNode(ctx, t)
	other.varve(ctx, "volume", "create", "v", "--size", "16M")
	leave := func(n *node, point failpoint.Point) []string {
		t.Helper()
		n.env = []string{fmt.Sprintf("VARVE_FAILPOINT=%s:1", point)}
		n.serve(ctx)
		before := charDevices(t)
		if r := n.try(ctx, "attach", "v"); r.code == 0 {
			n.try(ctx, "detach", "v")
		}
		n.awaitEnd(ctx)
		n.cmd, n.env = nil, nil
		left := charDevices(t)
		if len(left) != len(before)+1 {
			t.Fatalf("killed at %s, it left %q beside %q", point, left, before)
		}
		return slices.DeleteFunc(left, func(s string) bool { return slices.Contains(before, s) })
	}
	foreign := leave(other, failpoint.AttachParams)
	n := failpointNode(ctx, t)
	n.varve(ctx, "volume", "create", "v", "--size", "16M")
	for _, p := range []failpoint.Point{failpoint.AttachAdded, failpoint.AttachParams, failpoint.AttachFetched, failpoint.DetachStopped} {
		mine := leave(n, p)
		if p == failpoint.AttachParams {
			// Nobody knows the volume any more when the next daemon starts.
			n.varve(ctx, "volume", "delete", "v")
			n.varve(ctx, "volume", "create", "w", "--size", "16M")
		}
		n.serve(ctx)
		eventually(t, 10*time.Second, fmt.Sprintf("%s, left by a death at %s, is gone", mine[0], p), func() bool {
			return slices.Equal(charDevices(t), foreign)
		})
		wantLog(t, n, "it is removed", "never started, or has been stopped")
		if p == failpoint.AttachParams {
			n.varve(ctx, "volume", "delete", "w")
			n.varve(ctx, "volume", "create", "v", "--size", "16M")
		}
		n.awaitNoDevices()
		n.kill(ctx)
	}
	other.serve(ctx)
	awaitNoCharDevice(t)
}

// awaitNoDevices waits until the daemon keeps no list of devices, which it removes a moment after
// the last device.
func (n *node) awaitNoDevices() {
	n.t.Helper()
	eventually(n.t, time.Minute, "the daemon has no list of devices", func() bool {
		_, err := os.Stat(filepath.Join(n.store, "attached.json"))
		return errors.Is(err, os.ErrNotExist)
	})
}

func awaitNoCharDevice(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "no ublk device is left", func() bool { return len(charDevices(t)) == 0 })
}

// TestOrphanedDeviceRemoved: the next daemon removes a device whose volume is gone or has been
// replaced by another, and logs it. Processes that have the device open get an error instead of
// waiting forever.
func TestOrphanedDeviceRemoved(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	for _, c := range []struct{ size, says string }{{"", "not found"}, {"8M", "size"}} {
		n.serve(ctx)
		dev := n.volume(ctx, "v", "16M")
		n.kill(ctx)
		fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan error, 1)
		buf := aligned(t, 4096)
		go func() {
			_, err := unix.Pread(fd, buf, 0)
			read <- err
		}()
		// Behind the back of the next daemon: with the list of devices there, this would be
		// refused.
		list := filepath.Join(n.store, "attached.json")
		n.refuse(ctx, []string{dev}, "volume", "delete", "v")
		must(ctx, t, "mv", list, list+".away")
		n.varve(ctx, "volume", "delete", "v")
		if c.size != "" {
			n.varve(ctx, "volume", "create", "v", "--size", c.size)
		}
		must(ctx, t, "mv", list+".away", list)
		n.serve(ctx)
		select {
		case err := <-read:
			if err == nil {
				t.Errorf("volume %q: a read of the device succeeded", c.says)
			}
		case <-time.After(time.Minute * patience()):
			t.Fatalf("the read still waits\n%s", n.logTail())
		}
		_ = unix.Close(fd)
		awaitNoCharDevice(t)
		wantLog(t, n, dev, "it is removed", c.says)
		n.awaitNoDevices()
		if c.size != "" {
			n.varve(ctx, "volume", "delete", "v")
		}
		n.stop(ctx)
	}
}

// TestFailedDeviceRetried: a device that cannot be taken over is kept while it is in use, shown
// with the reason, and served again when a retry succeeds. A device that is not open is removed.
func TestFailedDeviceRetried(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := failpointNode(ctx, t)
	n.serve(ctx)
	used := n.volume(ctx, "used", "64M")
	w := watch(t, used)
	n.kill(ctx)
	n.env = []string{"VARVE_FAILPOINT_ERROR=recover:1"}
	n.serve(ctx)
	type attached struct{ Device, State, Error string }
	v := query[struct{ Attached []attached }](ctx, n, "volume", "show", "used")
	if len(v.Attached) != 1 || v.Attached[0].State != "waiting" || !strings.Contains(v.Attached[0].Error, "on purpose") {
		t.Fatalf("the volume is shown as %+v", v)
	}
	for _, show := range [][]string{{"stat"}, {"volume", "show", "used"}} {
		if out := n.varve(ctx, show...); !strings.Contains(out, used) || !strings.Contains(out, "on purpose") || !strings.Contains(out, "next try at") {
			t.Errorf("varve %v does not say that %s waits, and why:\n%s", show, used, out)
		}
	}
	n.refuse(ctx, []string{used, "--force"}, "detach", "used")
	eventually(t, 40*time.Second, used+" is served again", func() bool {
		v = query[struct{ Attached []attached }](ctx, n, "volume", "show", "used")
		return len(v.Attached) == 1 && v.Attached[0].State == "served"
	})
	must(ctx, t, "dd", "if=/dev/urandom", "of="+used, "bs=1M", "count=4", "oflag=direct", "status=none")
	w.end() // it saw no error
	noIOErrors(ctx, t, used)

	n.kill(ctx)
	n.serve(ctx)
	awaitNoCharDevice(t) // nobody has the device open, and it failed
	wantLog(t, n, "is not open: it is removed", "on purpose")
	n.env = nil
	if r := run(ctx, "dd", "if="+n.attach(ctx, "used"), "of=/dev/null", "bs=1M", "count=4", "status=none"); r.code != 0 {
		t.Error(r.stderr)
	}
}

// TestFailedQueueRecovered: serving a device that is in use fails, and the same daemon recovers the
// device. Requests wait meanwhile, including those in flight.
func TestFailedQueueRecovered(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := failpointNode(ctx, t)
	for _, soon := range []bool{false, true} { // at once, and after a pause
		n.env = []string{"VARVE_FAILPOINT_ERROR=queue:1"}
		n.serve(ctx)
		name := fmt.Sprintf("soon-%v", soon)
		dev := n.volume(ctx, name, "64M", "--queues", "1")
		w := watch(t, dev)
		if !soon {
			time.Sleep(12 * time.Second) // longer than what a device has to live to be taken for a sound one
		}
		must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=4", "oflag=direct", "conv=fsync", "status=none")
		wantLog(t, n, "on purpose")
		w.end()
		noIOErrors(ctx, t, dev)
		n.kill(ctx)
		n.env = nil
	}
}
