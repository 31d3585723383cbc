//go:build integration

package integration

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUpgradeFails: the old daemon continues if QUIESCE_DEV fails, if the successor stops sending
// messages, before or after it has received everything, and if it speaks another protocol. No user
// of a device sees an error.
func TestUpgradeFails(t *testing.T) {
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

// TestUpgradeOnFullDisk: a new daemon can take over even if other files have filled the store's
// disk to the last byte.
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
