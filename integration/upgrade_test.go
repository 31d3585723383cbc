//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// upgraded is the output of `varve upgrade --json`.
type upgraded struct {
	From    struct{ PID int }
	To      struct{ PID int }
	Devices []struct {
		Device string
		Pause  float64 `json:"pause_seconds"`
	}
	Pause *struct {
		P50 float64 `json:"p50_seconds"`
		Max float64 `json:"max_seconds"`
	}
	Mounts []string
	Notes  []string
}

// rounds returns the number of rounds of a long test: few in make test, the variable's value in
// make crash.
func rounds(t *testing.T, variable string, few int) int {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		return few
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: not a number of rounds", variable, v)
	}
	return n
}

// upgrade replaces the daemon. The new one is not a child of the test, and must be stopped by varve
// stop.
func (n *node) upgrade(ctx context.Context, args ...string) upgraded {
	n.t.Helper()
	u := query[upgraded](ctx, n, append([]string{"upgrade"}, args...)...)
	if n.cmd != nil {
		n.awaitEnd(ctx)
		if code := n.cmd.ProcessState.ExitCode(); code != 0 {
			n.t.Errorf("the old daemon's exit status is %d\n%s", code, n.logTail())
		}
		if u.From.PID != n.cmd.Process.Pid {
			n.t.Errorf("upgraded from process %d; it was %d", u.From.PID, n.cmd.Process.Pid)
		}
		n.cmd, n.background = nil, true
	}
	if u.From.PID == u.To.PID || syscall.Kill(u.To.PID, 0) != nil {
		n.t.Fatalf("upgraded from process %d to %d, which does not live", u.From.PID, u.To.PID)
	}
	eventually(n.t, time.Minute, fmt.Sprintf("process %d, from which was upgraded, has ended", u.From.PID), func() bool {
		return syscall.Kill(u.From.PID, 0) != nil
	})
	return u
}

// stopBackground stops a daemon that is not a child of the test.
func (n *node) stopBackground() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if n.cmd != nil || !n.answers() {
		return
	}
	if r := n.try(ctx, "stop", "--detach"); r.code != 0 {
		n.t.Errorf("varve stop --detach: %s", r.stderr)
	}
}

// TestUpgradeUnderLoad replaces the daemon repeatedly while fio writes and verifies one device, a
// tree is copied to an ext4 on another, and the test reads a third continuously to measure the
// pause. VARVE_CRASH_UPGRADES is the number of upgrades.
func TestUpgradeUnderLoad(t *testing.T) {
	count := rounds(t, "VARVE_CRASH_UPGRADES", 8)
	ctx := limit(t, 3*time.Minute+time.Duration(count)*10*time.Second)
	n := newNode(ctx, t)
	n.serve(ctx, "--settle-delay", "500ms")
	fioDev := n.volume(ctx, "fio", "512M", "--queues", "2")
	fsDev := n.volume(ctx, "fs", "2G")
	watched := n.volume(ctx, "watched", "64M", "--depth", "8")
	n.varve(ctx, "mount", t.TempDir())
	ext4 := fsNamed("ext4")
	ext4.make(ctx, t, fsDev)
	m := mount(ctx, t, fsDev, "errors=remount-ro")
	verify := start(t, "fio", fioVerify(fioDev, "--rw=randwrite", "--bsrange=512-256k", "--size=256M", "--iodepth=16",
		"--loops=2000", "--rate=40m", "--verify_backlog=256")...)
	copies := copyLoop(t, m.dir)
	w := watch(t, watched)
	var told, seen []time.Duration
	for i := range count {
		time.Sleep(time.Duration(300+(i*137)%700) * time.Millisecond)
		w.longest.Store(0)
		u := n.upgrade(ctx)
		seen = append(seen, time.Duration(w.longest.Load()))
		if len(u.Devices) != 3 || u.Pause == nil || len(u.Mounts) != 1 || len(u.Notes) != 0 {
			t.Fatalf("upgrade %d: %+v", i, u)
		}
		told = append(told, time.Duration(u.Pause.Max*float64(time.Second)))
		for _, job := range []*background{verify, copies} {
			if !job.running() {
				t.Fatalf("upgrade %d: %s ended: %v\n%s", i, job.cmd.Args[0], job.err, job.out.String())
			}
		}
	}
	t.Logf("%d upgrades; pause as told: p50 %v, max %v; longest read of the watched device: p50 %v, max %v",
		count, median(told), slices.Max(told), median(seen), slices.Max(seen))
	t.Logf("crash: %d upgrades", count)
	if slices.Max(told) > 20*time.Second || median(told) <= 0 {
		t.Errorf("pauses %v", told)
	}
	w.end()
	verify.stop(ctx, t, syscall.SIGINT)
	parseFio(t, verify.out.String())
	copies.stop(ctx, t, syscall.SIGTERM)
	checkCopies(ctx, t, n, m, fsDev)
	fio(ctx, t, fioVerify(fioDev, "--rw=randwrite", "--bsrange=512-256k", "--size=64M", "--iodepth=16"))
	for _, dev := range []string{fioDev, fsDev, watched} {
		noIOErrors(ctx, t, dev)
	}
}

// copyLoop copies a tree to dir repeatedly.
func copyLoop(t *testing.T, dir string) *background {
	t.Helper()
	return start(t, "sh", "-c", fmt.Sprintf(
		"while :; do rm -rf %[2]s/old; cp -a %[1]s %[2]s/new && sync -f %[2]s && mv %[2]s/new %[2]s/old || exit 1; done",
		sourceTree(t), dir))
}

// checkCopies copies the tree once more, and compares it after fsck and another mount.
func checkCopies(ctx context.Context, t *testing.T, n *node, m *mounted, dev string) {
	t.Helper()
	must(ctx, t, "rm", "-rf", filepath.Join(m.dir, "old"), filepath.Join(m.dir, "new"))
	must(ctx, t, "cp", "-a", sourceTree(t), m.dir)
	m.unmount(ctx)
	fsNamed("ext4").fsck(ctx, t, dev)
	m = mount(ctx, t, dev, "ro")
	compareTree(t, filepath.Join(m.dir, "src"))
	m.unmount(ctx)
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[(len(s)-1)/2]
}

// watcher reads a device continuously.
type watcher struct {
	longest atomic.Int64 // nanoseconds of the longest read
	stop    atomic.Bool
	done    chan error
	t       *testing.T
}

func watch(t *testing.T, dev string) *watcher {
	t.Helper()
	fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{done: make(chan error, 1), t: t}
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) // aligned
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer unix.Close(fd)
		for i := int64(0); !w.stop.Load(); i++ {
			began := time.Now()
			if _, err := unix.Pread(fd, buf, i%1024*4096); err != nil && !errors.Is(err, unix.EINTR) {
				w.done <- fmt.Errorf("read: %w", err)
				return
			}
			took := int64(time.Since(began))
			for old := w.longest.Load(); took > old && !w.longest.CompareAndSwap(old, took); old = w.longest.Load() {
			}
			time.Sleep(time.Millisecond) // the machine has one processor
		}
		w.done <- nil
	}()
	t.Cleanup(func() { w.stop.Store(true) })
	return w
}

func (w *watcher) end() {
	w.t.Helper()
	w.stop.Store(true)
	if err := <-w.done; err != nil {
		w.t.Error(err)
	}
}

// TestUpgradeRefusals: upgrade refuses what cannot be handed over, names it, and changes nothing.
func TestUpgradeRefusals(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.refuse(ctx, []string{"no daemon", "varve serve"}, "upgrade")
	n.serve(ctx)
	pid := n.cmd.Process.Pid
	still := func() {
		t.Helper()
		if d := query[struct{ Daemon struct{ PID int } }](ctx, n, "stat"); d.Daemon.PID != pid {
			t.Fatalf("after a refusal process %d serves, not %d", d.Daemon.PID, pid)
		}
	}
	dev := n.volume(ctx, "disk", "64M")
	w := watch(t, dev)
	n.varve(ctx, "volume", "create", "looped", "--size", "64M")
	loop := n.varve(ctx, "attach", "looped", "--transport", "loop")
	n.refuse(ctx, []string{loop, "loop device", "detach"}, "upgrade")
	still()
	n.varve(ctx, "detach", loop)
	dir := n.fuse(ctx)
	f, err := os.Open(filepath.Join(dir, "volumes", "disk", "info.json"))
	if err != nil {
		t.Fatal(err)
	}
	n.refuse(ctx, []string{dir, "--remount"}, "upgrade")
	n.refuse(ctx, []string{dir, "--remount"}, "upgrade")
	still()
	if _, err := f.Stat(); err != nil {
		t.Errorf("a refused upgrade broke an open file: %v", err)
	}
	n.refuse(ctx, []string{"--tail-soft"}, "upgrade", "--tail-soft", "10X")
	n.refuse(ctx, []string{"in use"}, "serve", "--background")
	still()
	if longest := time.Duration(w.longest.Load()); longest > 5*time.Second*patience() {
		t.Errorf("refusals held I/O up for %v", longest)
	}
	u := n.upgrade(ctx, "--remount")
	if len(u.Mounts) != 1 || len(u.Notes) != 1 || !strings.Contains(u.Notes[0], dir) {
		t.Errorf("upgrade --remount: %+v", u)
	}
	if _, err := os.ReadFile(filepath.Join(dir, "volumes", "disk", "info.json")); err != nil {
		t.Errorf("after --remount: %v", err)
	}
	_ = f.Close()
	w.end()
	noIOErrors(ctx, t, dev)
}

// TestUpgradeKeepsOptions: the new daemon inherits the old one's flags, except those given to
// upgrade.
func TestUpgradeKeepsOptions(t *testing.T) {
	ctx := limit(t, time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx, "--settle-delay", "7s", "--reserve", "40M")
	u := n.upgrade(ctx, "--log-level", "debug", "--settle-delay", "9s")
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", u.To.PID))
	if err != nil || !strings.Contains(string(line), "--settle-delay=9s") {
		t.Errorf("the new daemon's command line is %q, %v", line, err)
	}
	if s := query[struct{ Reserve int64 }](ctx, n, "stat"); s.Reserve != 40<<20 {
		t.Errorf("after the upgrade the reserve is %d bytes, not the old daemon's 40 MiB", s.Reserve)
	}
	u = n.upgrade(ctx) // what was inherited is inherited again
	if s := query[struct{ Reserve int64 }](ctx, n, "stat"); s.Reserve != 40<<20 {
		t.Errorf("after two upgrades the reserve is %d bytes", s.Reserve)
	}
	if u.Pause != nil || len(u.Devices) != 0 {
		t.Errorf("an upgrade without devices: %+v", u)
	}
}

// TestUpgradeToBrokenProgram: a successor that dies or hangs changes nothing.
func TestUpgradeToBrokenProgram(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "64M")
	w := watch(t, dev)
	// A successor that sends the first message and then ends, hangs, or ends after it has received
	// everything.
	for _, how := range []string{"silent", "ends"} {
		cmd := exec.CommandContext(ctx, "perl", "-MIO::Socket::UNIX", "-e", `
			my ($dir, $how) = @ARGV; chdir $dir or die;
			my $s = IO::Socket::UNIX->new(Peer => "varve.sock") or die "connect: $!";
			$s->autoflush(1);
			print $s "POST /handover HTTP/1.1\r\nHost: varve\r\nConnection: Upgrade\r\nUpgrade: varve-handover/1\r\nContent-Length: 0\r\n\r\n";
			while (<$s>) { last if /^\r$/ }
			print $s "{\"version\":\"x\",\"marks\":true,\"some_day\":1}\n";
			<$s> =~ /"devices":\[\{/ or die "no offer";
			exit 0 if $how eq "silent";
			print $s "{\"ready\":true}\n";
			<$s> =~ /"quiesced"/ or die "nothing given";
		`, n.store, how)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s%s", how, err, out, n.logTail())
		}
		eventually(t, 20*time.Second, "the old daemon answers again", func() bool { return n.try(ctx, "stat").code == 0 })
		if v := query[struct{ Attached []struct{ Device string } }](ctx, n, "volume", "show", "disk"); len(v.Attached) != 1 {
			t.Fatalf("%s: attached: %+v", how, v)
		}
	}
	select {
	case <-n.gone:
		t.Fatalf("the daemon ended\n%s", n.logTail())
	default:
	}
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=8", "oflag=direct", "status=none")
	w.end()
	noIOErrors(ctx, t, dev)
	n.upgrade(ctx)
}
