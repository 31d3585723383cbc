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
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/failpoint"
)

// failpointNode is a node whose daemons can be made to die or to fail.
func failpointNode(ctx context.Context, t *testing.T) *node {
	t.Helper()
	n := newNode(ctx, t)
	if n.program = os.Getenv("VARVE_BIN_FAILPOINT"); n.program == "" {
		t.Fatal("VARVE_BIN_FAILPOINT is not set: a varve that is built with -tags failpoint")
	}
	return n
}

// charDevices are the ublk devices of the machine, started or not.
func charDevices(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("/dev/ublkc[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestDeadDeviceIsRemoved: a daemon that is killed while it makes or removes a device leaves a /dev/ublkcN that nobody can
// serve or open. The next daemon of the store removes it, and leaves those of others alone.
func TestDeadDeviceIsRemoved(t *testing.T) {
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
		wantLog(t, n, "removing it", "never started, or has been stopped")
		if p == failpoint.AttachParams {
			n.varve(ctx, "volume", "delete", "w")
			n.varve(ctx, "volume", "create", "v", "--size", "16M")
		}
		if _, err := os.Stat(filepath.Join(n.store, "attached.json")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after a death at %s the record is kept: %v", p, err)
		}
		n.kill(ctx)
	}
	other.serve(ctx)
	if left := charDevices(t); len(left) > 0 {
		t.Errorf("the other store's daemon has left %q", left)
	}
}

// TestUnfitDeviceIsRemoved: a device whose volume is gone, or is another, is removed by the next daemon, which says so.
// Whoever has it open gets an error, instead of waiting for ever.
func TestUnfitDeviceIsRemoved(t *testing.T) {
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
		// Behind the back of the next daemon: with the list of devices there, this would be refused.
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
		case <-time.After(30 * time.Second):
			t.Fatalf("the read still waits\n%s", n.logTail())
		}
		_ = unix.Close(fd)
		eventually(t, 10*time.Second, dev+" is gone", func() bool { return len(charDevices(t)) == 0 })
		wantLog(t, n, dev, "removing it", c.says)
		if _, err := os.Stat(list); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the record is kept: %v", err)
		}
		if c.size != "" {
			n.varve(ctx, "volume", "delete", "v")
		}
		n.stop(ctx)
	}
}

// TestFailedDeviceIsTriedAgain: a device that can't be taken over for now is kept while it is in use, shown with the
// reason, and served again at the next try; one that nobody has open is removed.
func TestFailedDeviceIsTriedAgain(t *testing.T) {
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
		if out := n.varve(ctx, show...); !strings.Contains(out, used) || !strings.Contains(out, "on purpose") || !strings.Contains(out, "tried again at") {
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
	if left := charDevices(t); len(left) > 0 {
		t.Errorf("nobody has %s open, and it failed: %q are left", used, left)
	}
	wantLog(t, n, "nobody has it open", "on purpose")
	n.env = nil
	if r := run(ctx, "dd", "if="+n.attach(ctx, "used"), "of=/dev/null", "bs=1M", "count=4", "status=none"); r.code != 0 {
		t.Error(r.stderr)
	}
}

// TestFailedQueueIsServedAgain: the service of a device that is in use fails, and the daemon that has failed at it takes it
// up again. Requests wait meanwhile, those under way too.
func TestFailedQueueIsServedAgain(t *testing.T) {
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

// TestUpgradeThatFails: the old daemon goes on if QUIESCE_DEV fails, if the successor says nothing when it should, at
// the beginning or when everything is its own, and if it speaks another protocol. No user of a device sees an error.
func TestUpgradeThatFails(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	n := failpointNode(ctx, t)
	n.env = []string{"VARVE_FAILPOINT_ERROR=quiesce:1", "VARVE_FAILPOINT_HASTE=5"}
	n.serve(ctx)
	pid := n.cmd.Process.Pid
	dev := n.volume(ctx, "disk", "64M")
	w := watch(t, dev)
	goesOn := func(how string) {
		t.Helper()
		eventually(t, 30*time.Second, how+": the old daemon answers", func() bool { return n.try(ctx, "stat").code == 0 })
		s := query[struct {
			Daemon   struct{ PID int }
			Attached []struct{ Device, State string }
		}](ctx, n, "stat")
		if s.Daemon.PID != pid || len(s.Attached) != 1 || s.Attached[0].State != "served" {
			t.Fatalf("%s: %+v\n%s", how, s, n.logTail())
		}
		must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=4", "oflag=direct", "status=none")
		t.Logf("%s: the longest read so far took %v", how, time.Duration(w.longest.Load()))
	}
	n.refuse(ctx, []string{"quiesce", "on purpose"}, "upgrade")
	goesOn("quiesce failed")
	wantLog(t, n, "this daemon goes on")

	successor := func(how string) *background {
		t.Helper()
		return start(t, "perl", "-MIO::Socket::UNIX", "-e", `
			my ($dir, $how) = @ARGV; chdir $dir or die;
			my $s = IO::Socket::UNIX->new(Peer => "varve.sock") or die "connect: $!";
			$s->autoflush(1);
			my $v = $how eq "other" ? 9 : 1;
			print $s "POST /handover HTTP/1.1\r\nHost: varve\r\nConnection: Upgrade\r\nUpgrade: varve-handover/$v\r\nContent-Length: 0\r\n\r\n";
			if ($how eq "other") { sysread $s, my $b, 4096; print $b; exit 0 }
			while (<$s>) { last if /^\r$/ }
			print $s "{\"version\":\"x\",\"marks\":true}\n";
			<$s> =~ /"devices":\[\{/ or die "no offer";
			if ($how eq "late") { print $s "{\"ready\":true}\n"; <$s> =~ /"quiesced"/ or die "nothing given" }
			sleep 600;
		`, n.store, how)
	}
	other := successor("other").wait(ctx, t)
	for _, word := range []string{"426", "varve-handover/9", "varve-handover/1"} {
		if !strings.Contains(other, word) {
			t.Errorf("a successor of another protocol version is answered with %q, which does not say %q", other, word)
		}
	}
	goesOn("another protocol")

	early := successor("early")
	time.Sleep(300 * time.Millisecond)
	n.refuse(ctx, []string{"another upgrade is under way"}, "upgrade")
	goesOn("a silent successor, at the beginning")
	wantLog(t, n, "no upgrade")
	early.stop(ctx, t, syscall.SIGKILL)

	late := successor("late")
	select {
	case <-late.done: // killed by the old daemon
	case <-time.After(60 * time.Second):
		t.Fatalf("a successor that says nothing lives on\n%s", n.logTail())
	}
	goesOn("a silent successor, when all was its own")
	wantLog(t, n, "did not take over", "killing it")
	w.end()
	noIOErrors(ctx, t, dev)
	n.env = nil
	n.upgrade(ctx)
}

// TestUpgradeOnFullDisk: others have taken the last byte under the store; a new daemon takes over all the same.
func TestUpgradeOnFullDisk(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	d := newSmallDisk(ctx, t, fsNamed("ext4"), 256)
	n := newNodeAt(ctx, t, filepath.Join(d.m.dir, "store"))
	n.serve(ctx, "--settle-delay", "1h")
	dev := n.volume(ctx, "disk", "512M")
	if r := random(ctx, dev, 0, 16, "oflag=direct"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	want := sumStart(ctx, t, dev, 16)
	w := watch(t, dev)
	d.fill()
	u := n.upgrade(ctx)
	if len(u.Devices) != 1 {
		t.Errorf("upgrade on a full disk: %+v", u)
	}
	if got := sumStart(ctx, t, dev, 16); got != want {
		t.Error("after an upgrade on a full disk the device reads differently")
	}
	w.end()
	d.release()
	eventually(t, 60*time.Second, "writes go on when there is room", func() bool { return random(ctx, dev, 32, 4, "oflag=direct").code == 0 })
	n.varve(ctx, "detach", "disk")
}
