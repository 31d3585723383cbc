//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// spaceStat is the part of `varve stat --json` that these tests use.
type spaceStat struct {
	Used              int64  `json:"used"`
	MaxSize           int64  `json:"max_size"`
	Free              int64  `json:"free"`
	Reserve           int64  `json:"reserve"`
	SettleReservation int64  `json:"settle_reservation"`
	State             string `json:"state"`
}

// smallDisk is a filesystem of some MiB on a loop device, with a file in it that can be deleted.
type smallDisk struct {
	t       *testing.T
	m       *mounted
	dev     string
	ballast string
}

func newSmallDisk(ctx context.Context, t *testing.T, f filesystem, mib int) *smallDisk {
	t.Helper()
	img := filepath.Join(t.TempDir(), "disk.img")
	must(ctx, t, "truncate", "-s", fmt.Sprintf("%dM", mib), img)
	d := &smallDisk{t: t, dev: losetup(ctx, t, img)}
	f.make(ctx, t, d.dev)
	d.m = mount(ctx, t, d.dev, "")
	d.ballast = filepath.Join(d.m.dir, "ballast")
	return d
}

// free returns the bytes that root can still write, including ext4's reserved blocks.
func (d *smallDisk) free() int64 {
	d.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.m.dir, &st); err != nil {
		d.t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}

// fill allocates all free space, first at once and then in single blocks.
func (d *smallDisk) fill() {
	d.t.Helper()
	f, err := os.OpenFile(d.ballast, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for step := int64(64 << 20); step >= 4096; {
		st, err := f.Stat()
		if err != nil {
			d.t.Fatal(err)
		}
		if err := unix.Fallocate(int(f.Fd()), 0, st.Size(), step); err != nil {
			step /= 2
		}
	}
	block := make([]byte, 4096)
	for {
		if _, err := f.Write(block); err != nil {
			break
		}
	}
	_ = f.Sync()
}

// roomBack bounds the time until deleted space is free again: btrfs commits every 30 seconds.
const roomBack = 50 * time.Second

func (d *smallDisk) release() {
	d.t.Helper()
	if err := os.Remove(d.ballast); err != nil {
		d.t.Fatal(err)
	}
}

// random writes random bytes with direct I/O, at an offset and of a length in MiB, and returns dd's
// result.
func random(ctx context.Context, file string, at, count int, more ...string) result {
	return run(ctx, "dd", append([]string{
		"if=/dev/urandom", "of=" + file, "bs=1M", fmt.Sprint("seek=", at), fmt.Sprint("count=", count), "status=none", "conv=notrunc",
	}, more...)...)
}

func sumStart(ctx context.Context, t *testing.T, dev string, mib int) string {
	t.Helper()
	return must(ctx, t, "sh", "-c", fmt.Sprintf("dd if=%s bs=1M count=%d iflag=direct status=none | sha256sum", dev, mib))
}

// awaitState waits until stat shows a state of space.
func (n *node) awaitState(ctx context.Context, want string) spaceStat {
	n.t.Helper()
	var s spaceStat
	eventually(n.t, 30*time.Second, "the store is "+want, func() bool {
		s = query[spaceStat](ctx, n, "stat")
		return s.State == want
	})
	return s
}

func wantLog(t *testing.T, n *node, words ...string) {
	t.Helper()
	eventually(t, 10*time.Second, "the log says "+strings.Join(words, ", "), func() bool {
		log := n.logTail()
		for _, w := range words {
			if !strings.Contains(log, w) {
				return false
			}
		}
		return true
	})
}

// TestFullDisk fills the store's file system through a filesystem on a volume. Synced data is right
// and readable, failed writes are reported, the daemon survives this and restarts after kills,
// deleting works, and when space is freed, writes continue without a restart.
func TestFullDisk(t *testing.T) {
	for _, below := range []string{"ext4", "xfs", "btrfs"} {
		for _, above := range []string{"ext4", "xfs"} {
			if (below == "btrfs" || below != above) && !long() {
				continue
			}
			t.Run(above+" on "+below, func(t *testing.T) { fullDisk(t, fsNamed(below), fsNamed(above)) })
		}
	}
}

// long reports whether this is a long run.
func long() bool { return os.Getenv("VARVE_CRASH_CUTS") != "" }

func fullDisk(t *testing.T, below, above filesystem) {
	ctx := limit(t, 4*time.Minute)
	d := newSmallDisk(ctx, t, below, 700)
	must(ctx, t, "fallocate", "-l", "100M", d.ballast)
	n := newNodeAt(ctx, t, filepath.Join(d.m.dir, "store"))
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "2G")
	if below.name == "btrfs" {
		wantInPlace(ctx, t, n.store)
	}
	above.make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	kept := filepath.Join(m.dir, "kept")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+kept, "bs=1M", "count=48", "conv=fsync", "status=none")
	want := sum(t, kept)
	n.snapshot(ctx, "disk@early")
	// All in place, so that it can be read without the filesystem's log.
	must(ctx, t, "fsfreeze", "-f", m.dir)
	must(ctx, t, "fsfreeze", "-u", m.dir)
	n.varve(ctx, "volume", "create", "other", "--size", "1G")
	raw := n.attach(ctx, "other")
	if r := random(ctx, raw, 0, 32, "oflag=direct", "conv=notrunc,fsync"); r.code != 0 {
		t.Fatalf("write before it is full: %s", r.stderr)
	}
	rawWant := sumStart(ctx, t, raw, 32)

	// Through the page cache of the filesystem above, which hears of it at write-back.
	r := run(ctx, "dd", "if=/dev/urandom", "of="+filepath.Join(m.dir, "fill"), "bs=1M", "conv=fsync", "status=none")
	t.Logf("fill: status %d: %s", r.code, r.stderr)
	if r.code == 0 || !strings.Contains(r.stderr, "No space left") && !strings.Contains(r.stderr, "Input/output error") &&
		!strings.Contains(r.stderr, "Read-only file system") { // ext4 without its journal
		t.Errorf("writing into the full store: exit status %d, %s", r.code, r.stderr)
	}
	if r := random(ctx, raw, 32, 900, "oflag=direct"); !strings.Contains(r.stderr, "No space left") {
		t.Errorf("writing to the device of a full store: status %d, %s", r.code, r.stderr)
	}
	s := n.awaitState(ctx, "full")
	t.Logf("full: %+v; file system has %d MiB free", s, d.free()>>20)
	wantLog(t, n, "the store is full") // the warning before it comes where filling takes longer than a look at the room
	if d.free() < s.Reserve/2 {
		t.Errorf("%d bytes are free: the reserve of %d is used up", d.free(), s.Reserve)
	}
	still := func(when string) {
		t.Helper()
		dropCaches(t)
		if _, err := sumFile(kept); err != nil && above.name == "xfs" {
			// xfs shuts itself down when its log can't be written, and can't replay it where
			// nothing can be written.
			t.Logf("%s: %v; mounted anew, without the log", when, err)
			m.unmount(ctx)
			m = mount(ctx, t, dev, above.frozen)
			kept = filepath.Join(m.dir, "kept")
		}
		if got := sum(t, kept); got != want {
			t.Errorf("%s: what was synced has changed", when)
		}
		if got := sumStart(ctx, t, raw, 32); got != rawWant {
			t.Errorf("%s: what was synced on the raw volume has changed", when)
		}
		if r := run(ctx, "blockdev", "--flushbufs", raw); r.code != 0 {
			t.Errorf("%s: flush: %s", when, r.stderr)
		}
	}
	still("full")
	n.kill(ctx)
	n.serve(ctx)
	still("after a kill on the full disk")
	n.stop(ctx) // takes the device away that nobody has open
	n.serve(ctx)
	raw = n.attachAgain(ctx, "other")
	still("after a stop on the full disk")

	n.varve(ctx, "snapshot", "delete", "disk@early")
	n.varve(ctx, "volume", "create", "third", "--size", "64M")
	n.varve(ctx, "volume", "delete", "third")

	d.release()
	eventually(t, roomBack, "writes go on", func() bool {
		return random(ctx, raw, 32, 16, "oflag=direct", "conv=notrunc,fsync").code == 0
	})
	rawWant = sumStart(ctx, t, raw, 48)
	wantLog(t, n, "the store accepts writes again")
	m.unmount(ctx)
	repair(ctx, t, above, dev)
	above.fsck(ctx, t, dev)
	m = mount(ctx, t, dev, "")
	kept = filepath.Join(m.dir, "kept")
	if got := sum(t, kept); got != want {
		t.Error("what was synced has changed after a new mount")
	}
	_ = os.Remove(filepath.Join(m.dir, "fill"))
	must(ctx, t, "dd", "if=/dev/urandom", "of="+filepath.Join(m.dir, "new"), "bs=1M", "count=16", "conv=fsync", "status=none")
	lastByte(ctx, t, n, d, raw, rawWant)
	if _, err := sumFile(kept); err != nil && above.name == "xfs" { // it has written to its log meanwhile, and shut down
		t.Logf("at the end: %v; mounted anew", err)
		m.unmount(ctx)
		m = mount(ctx, t, dev, "")
		kept = filepath.Join(m.dir, "kept")
	}
	if got := sum(t, kept); got != want {
		t.Error("what was synced has changed at the end")
	}
	m.unmount(ctx)
	above.fsck(ctx, t, dev)
	n.stop(ctx, "--detach")
	d.m.unmount(ctx)
	below.fsck(ctx, t, d.dev)
}

// wantInPlace checks that btrfs does not copy the store's files on write.
func wantInPlace(ctx context.Context, t *testing.T, store string) {
	t.Helper()
	files := 0
	for line := range strings.Lines(must(ctx, t, "sh", "-c", "find "+store+" -type f -exec lsattr {} +")) {
		flags, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if files++; !strings.Contains(flags, "C") {
			t.Errorf("%s is copied on write: %s", name, flags)
		}
	}
	if files < 5 {
		t.Errorf("only %d files in the store", files)
	}
}

// repair does what mounting does after an error: it replays the journal and records the error.
func repair(ctx context.Context, t *testing.T, f filesystem, dev string) {
	t.Helper()
	if f.name == "ext4" {
		if r := run(ctx, "e2fsck", "-fp", dev); r.code > 1 {
			t.Errorf("e2fsck -fp: status %d\n%s%s", r.code, r.stdout, r.stderr)
		}
		return
	}
	m := mount(ctx, t, dev, "")
	m.unmount(ctx)
}

// lastByte lets other files use up the reserve too, while a volume is written to.
func lastByte(ctx context.Context, t *testing.T, n *node, d *smallDisk, raw, want string) {
	t.Helper()
	writer := start(t, "dd", "if=/dev/urandom", "of="+raw, "bs=64k", "seek=2048", "count=16000", "oflag=direct,dsync",
		"conv=notrunc", "status=none")
	time.Sleep(300 * time.Millisecond)
	d.fill()
	t.Logf("the file system has %d bytes free", d.free())
	eventually(t, 30*time.Second, "the writer ends", func() bool {
		select {
		case <-n.gone:
			t.Fatalf("the daemon ended: %v", n.cmd.ProcessState)
		default:
		}
		return !writer.running()
	})
	still := func(when string) {
		t.Helper()
		if got := sumStart(ctx, t, raw, 48); got != want {
			t.Errorf("%s: what was synced has changed", when)
		}
		if s := query[spaceStat](ctx, n, "stat"); s.State != "full" {
			t.Errorf("%s: the state is %q, want full", when, s.State)
		}
		if r := run(ctx, "blockdev", "--flushbufs", raw); r.code != 0 {
			t.Errorf("%s: flush: %s", when, r.stderr)
		}
	}
	still("full to the last byte")
	n.kill(ctx)
	n.serve(ctx)
	still("after a kill")
	n.stop(ctx)
	n.serve(ctx)
	raw = n.attachAgain(ctx, "other")
	still("after a stop")
	n.varve(ctx, "detach", "other")
	n.varve(ctx, "volume", "delete", "other")
	d.release()
	eventually(t, roomBack, "there is room again", func() bool {
		return query[spaceStat](ctx, n, "stat").State != "full"
	})
}

func diskUsage(ctx context.Context, t *testing.T, dir string) int64 {
	t.Helper()
	var n int64
	if _, err := fmt.Sscan(must(ctx, t, "du", "-sB1", dir), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMaxSize sets a maximum size of a store on a large disk: writes stop before it, and continue
// when it is raised.
func TestMaxSize(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	n := newNode(ctx, t, "--max-size", "256M")
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "2G")
	r := random(ctx, dev, 0, 1000, "oflag=direct")
	if !strings.Contains(r.stderr, "No space left") {
		t.Errorf("writing 1000 MiB into a store of 256: status %d, %s", r.code, r.stderr)
	}
	s := n.awaitState(ctx, "full")
	t.Logf("full: %+v", s)
	if s.Used > 256<<20 || s.Used < 180<<20 {
		t.Errorf("a store of 256 MiB at most takes %d bytes", s.Used)
	}
	var du int64
	agree := func() bool {
		s, du = query[spaceStat](ctx, n, "stat"), diskUsage(ctx, t, n.store)
		return within(du, s.Used, 1<<20)
	}
	for end := time.Now().Add(time.Minute * patience()); !agree(); time.Sleep(100 * time.Millisecond) { // settling goes on
		if time.Now().After(end) {
			t.Fatalf("stat says that %d bytes are used, du %d", s.Used, du)
		}
	}
	// Writing the same bytes repeatedly takes no more space than once: writes wait for settling,
	// and do not fail.
	n.varve(ctx, "set", "--max-size", "384M")
	same := filepath.Join(t.TempDir(), "same")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+same, "bs=1M", "count=48", "status=none")
	for i := range 12 {
		r := run(ctx, "dd", "if="+same, "of="+dev, "bs=1M", fmt.Sprint("seek=", 48*i), "oflag=direct", "conv=notrunc", "status=none")
		if r.code != 0 {
			t.Fatalf("write of the same bytes, %d: %s", i, r.stderr)
		}
	}
	if s := query[spaceStat](ctx, n, "stat"); s.Used > 384<<20 {
		t.Errorf("a store of 384 MiB at most takes %d bytes", s.Used)
	}
	n.varve(ctx, "set", "--max-size", "none")
	if r := random(ctx, dev, 500, 200, "oflag=direct", "conv=notrunc,fsync"); r.code != 0 {
		t.Errorf("with the maximum lifted: %s", r.stderr)
	}
	n.awaitState(ctx, "ok")
	n.varve(ctx, "set", "--max-size", "128M")
	n.awaitState(ctx, "full")
	if r := random(ctx, dev, 0, 1, "oflag=direct"); !strings.Contains(r.stderr, "No space left") {
		t.Errorf("with a maximum below what is used: status %d, %s", r.code, r.stderr)
	}
	must(ctx, t, "blkdiscard", dev)
	n.varve(ctx, "detach", "disk")
	n.varve(ctx, "volume", "delete", "disk")
}
