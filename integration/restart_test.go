//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStopAndStart: data is there when another daemon serves the store, settled or not.
func TestStopAndStart(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	ext4 := fsNamed("ext4")
	dev := n.volume(ctx, "disk", "1G")
	ext4.make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	must(ctx, t, "cp", "-a", sourceTree(t), m.dir)
	m.unmount(ctx)
	root := n.snapshot(ctx, "disk@before")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=64k", "count=16", "seek=14000", "oflag=direct", "conv=notrunc,fsync",
		"status=none")
	whole := sum(t, dev)
	n.varve(ctx, "detach", "disk")
	n.stop(ctx)
	for i := range 3 {
		n.serve(ctx)
		dev = n.attach(ctx, "disk")
		if got := sum(t, dev); got != whole {
			t.Fatalf("start %d: the volume's content changed", i)
		}
		ext4.fsck(ctx, t, dev)
		m = mount(ctx, t, dev, "ro")
		compareTree(t, filepath.Join(m.dir, "src"))
		m.unmount(ctx)
		snaps := query[[]struct{ Name, Root string }](ctx, n, "snapshot", "list")
		if len(snaps) != 1 || snaps[0].Root != root {
			t.Fatalf("start %d: snapshots %+v, want one with root %s", i, snaps, root)
		}
		n.varve(ctx, "detach", "disk")
		n.stop(ctx)
	}
}

// TestRestart: a restart of the service restores devices and mounts, including those that were in
// use.
func TestRestart(t *testing.T) {
	for _, how := range []string{"stop", "SIGTERM"} {
		t.Run(how, func(t *testing.T) {
			ctx := limit(t, 2*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx)
			ext4 := fsNamed("ext4")
			used, idle := n.volume(ctx, "used", "64M"), n.volume(ctx, "idle", "64M", "--read-only")
			looped := n.volume(ctx, "looped", "64M", "--transport", "loop")
			must(ctx, t, "dd", "if=/dev/urandom", "of="+looped, "bs=1M", "count=4", "oflag=direct", "status=none")
			want := sum(t, looped)
			ext4.make(ctx, t, used)
			m := mount(ctx, t, used, "")
			dir := n.fuse(ctx)
			held, err := os.Open(filepath.Join(dir, "volumes", "idle", "live")) // the mount is in use
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			if how == "stop" {
				n.stop(ctx)
			} else {
				if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				n.awaitEnd(ctx)
			}
			if _, err := os.Stat(idle); err == nil {
				t.Errorf("%s is there without a daemon, and nobody had it open", idle)
			}
			n.serve(ctx, "--remount")
			var at map[string]string
			eventually(t, time.Minute, "all devices are back", func() bool {
				at = map[string]string{}
				for _, a := range query[struct{ Attached attachedNow }](ctx, n, "stat").Attached {
					at[a.Volume] = a.Device
					if a.ReadOnly != (a.Volume == "idle") {
						t.Errorf("after the restart %+v", a)
					}
				}
				return len(at) == 3
			})
			if at["used"] != used || at["idle"] != idle || at["looped"] == "" {
				t.Errorf("after the restart devices are %v, before %s and %s", at, used, idle)
			}
			must(ctx, t, "cp", "/etc/passwd", m.dir)
			if got := sum(t, at["looped"]); got != want {
				t.Error("the loop device's content changed over the restart")
			}
			eventually(t, time.Minute, "the mount is back", func() bool {
				_, err := os.Stat(filepath.Join(dir, "volumes", "idle", "live"))
				return err == nil
			})
			m.unmount(ctx)
			ext4.fsck(ctx, t, used)

			// For good.
			n.stop(ctx, "--detach")
			n.serve(ctx)
			if a := query[struct{ Attached attachedNow }](ctx, n, "stat").Attached; len(a) > 0 {
				t.Errorf("after stop --detach there are %+v", a)
			}
			if _, err := os.Stat(filepath.Join(dir, "volumes")); err == nil {
				t.Error("after stop --detach the mount is back")
			}
		})
	}
}

// TestServeInBackground runs the daemon with serve --background, and ends it by SIGTERM.
func TestServeInBackground(t *testing.T) {
	ctx := limit(t, time.Minute)
	n := newNode(ctx, t)
	n.varve(ctx, "serve", "--background")
	type daemon struct {
		Daemon *struct{ PID int }
	}
	d := query[daemon](ctx, n, "stat")
	if d.Daemon == nil || d.Daemon.PID == 0 {
		t.Fatal("serve --background returned and stat sees no daemon")
	}
	dev := n.volume(ctx, "disk", "64M")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=8", "oflag=direct", "status=none")
	want := sum(t, dev)
	must(ctx, t, "kill", "-TERM", fmt.Sprint(d.Daemon.PID))
	eventually(t, 20*time.Second, "the daemon ends after SIGTERM", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", d.Daemon.PID))
		return err != nil
	})
	n.varve(ctx, "serve", "--background")
	dev = n.attachAgain(ctx, "disk")
	if got := sum(t, dev); got != want {
		t.Error("the content changed over SIGTERM and a new daemon")
	}
	n.varve(ctx, "stop", "--detach")
	if n.answers() {
		t.Error("varve stop returned and the daemon still answers")
	}
}

// attachAgain returns the device of a volume that a new daemon took over, or attaches the volume.
func (n *node) attachAgain(ctx context.Context, name string) string {
	n.t.Helper()
	v := query[struct {
		Attached []struct{ Device string }
	}](ctx, n, "volume", "show", name)
	if len(v.Attached) == 1 {
		return v.Attached[0].Device
	}
	return n.attach(ctx, name)
}

// TestKillUnderFioVerify kills the daemon 20 times while fio writes and verifies: fio sees no
// error.
func TestKillUnderFioVerify(t *testing.T) {
	ctx := limit(t, 8*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "512M", "--queues", "2")
	job := start(t, "fio", fioVerify(dev, "--rw=randwrite", "--bsrange=512-256k", "--size=256M", "--iodepth=16",
		"--loops=200", "--rate=40m", "--verify_backlog=256")...)
	killTwenty(ctx, t, n, job)
	// fio is stopped in the middle of its loops; one more complete loop is verified.
	job.stop(ctx, t, syscall.SIGINT)
	r := parseFio(t, job.out.String())
	t.Logf("under kills: %d writes, %d reads", r.Jobs[0].Write.TotalIOs, r.Jobs[0].Read.TotalIOs)
	fio(ctx, t, fioVerify(dev, "--rw=randwrite", "--bsrange=512-256k", "--size=128M", "--iodepth=16"))
	noIOErrors(ctx, t, dev)
	n.varve(ctx, "detach", "disk")
}

// TestKillUnderMountedExt4 kills the daemon 20 times while a tree is copied to a mounted filesystem
// on it.
func TestKillUnderMountedExt4(t *testing.T) {
	ctx := limit(t, 8*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	ext4 := fsNamed("ext4")
	dev := n.volume(ctx, "disk", "2G")
	ext4.make(ctx, t, dev)
	m := mount(ctx, t, dev, "errors=remount-ro")
	job := start(t, "sh", "-c", fmt.Sprintf(
		"while :; do rm -rf %[2]s/old; cp -a %[1]s %[2]s/new && sync -f %[2]s && mv %[2]s/new %[2]s/old || exit 1; done",
		sourceTree(t), m.dir))
	killTwenty(ctx, t, n, job)
	job.stop(ctx, t, syscall.SIGTERM)
	must(ctx, t, "rm", "-rf", filepath.Join(m.dir, "old"), filepath.Join(m.dir, "new"))
	must(ctx, t, "cp", "-a", sourceTree(t), m.dir)
	m.unmount(ctx)
	ext4.fsck(ctx, t, dev)
	m = mount(ctx, t, dev, "ro")
	compareTree(t, filepath.Join(m.dir, "src"))
	m.unmount(ctx)
	noIOErrors(ctx, t, dev)
	n.varve(ctx, "detach", "disk")
}

// killTwenty kills the daemon 20 times and starts it again each time, while job continues.
func killTwenty(ctx context.Context, t *testing.T, n *node, job *background) {
	t.Helper()
	var slowest time.Duration
	for i := range 20 {
		time.Sleep(time.Duration(200+(i*137)%400) * time.Millisecond)
		if !job.running() {
			t.Fatalf("kill %d: the job ended: %v\n%s", i, job.err, job.out.String())
		}
		n.kill(ctx)
		if i%3 == 0 { // sometimes no daemon runs for a while
			time.Sleep(300 * time.Millisecond)
		}
		began := time.Now()
		n.serve(ctx)
		slowest = max(slowest, time.Since(began))
	}
	time.Sleep(500 * time.Millisecond)
	if !job.running() {
		t.Fatalf("after the kills: the job ended: %v\n%s", job.err, job.out.String())
	}
	t.Logf("20 kills; the slowest new daemon answered after %v", slowest.Round(time.Millisecond))
}

// noIOErrors checks that the kernel has logged no error of the device since the test's store was
// created.
func noIOErrors(ctx context.Context, t *testing.T, dev string) {
	t.Helper()
	name := filepath.Base(dev)
	_, said, marked := strings.Cut(must(ctx, t, "dmesg"), kernelMark(t))
	if !marked {
		t.Fatal("the mark is not in the kernel's log")
	}
	for line := range strings.Lines(said) {
		if strings.Contains(line, name) && (strings.Contains(line, "error") || strings.Contains(line, "corrupt")) {
			t.Errorf("kernel: %s", strings.TrimSpace(line))
		}
	}
}

// kernelMark is the line in the kernel's log at which a test begins.
func kernelMark(t *testing.T) string { return "varve test begins: " + t.Name() }

func markKernelLog(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/dev/kmsg", []byte("<6>"+kernelMark(t)+"\n"), 0); err != nil {
		t.Fatal(err)
	}
}
