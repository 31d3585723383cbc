//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"varve/objstore"
)

// TestQuota fills an ext4 on a volume with a quota until the device has no space left. What was
// synced is right, the device of another volume goes on, discarded blocks make room, a greater quota
// lets writes go on without a new attach, and a killed daemon's successor keeps to it.
func TestQuota(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev, other := n.volume(ctx, "limited", "1G"), n.volume(ctx, "other", "1G")
	n.varve(ctx, "volume", "set", "limited", "--quota", "96M")
	fsNamed("ext4").make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	kept := filepath.Join(m.dir, "kept")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+kept, "bs=1M", "count=40", "conv=fsync", "status=none")
	want := sum(t, kept)

	fill := filepath.Join(m.dir, "fill")
	r := run(ctx, "dd", "if=/dev/urandom", "of="+fill, "bs=1M", "count=200", "oflag=direct", "status=none")
	if r.code == 0 || !strings.Contains(r.stderr, "No space left") {
		t.Fatalf("writing beyond the quota: exit status %d, %s", r.code, r.stderr)
	}
	within := func(when string) {
		t.Helper()
		n.varve(ctx, "snapshot", "create", "limited@now", "--wait") // so that all has settled
		n.varve(ctx, "snapshot", "delete", "limited@now")
		if v := query[objstore.VolumeInfo](ctx, n, "volume", "show", "limited"); v.Quota == 0 || v.Logical > v.Quota || v.Logical < v.Quota*9/10 {
			t.Errorf("%s: %d bytes of a quota of %d", when, v.Logical, v.Quota)
		}
	}
	within("filled")
	if got := sum(t, kept); got != want {
		t.Error("what was synced before has changed")
	}
	if r := random(ctx, other, 0, 200, "oflag=direct"); r.code != 0 {
		t.Errorf("another volume: %s", r.stderr)
	}
	// What is there can be overwritten.
	if r := run(ctx, "dd", "if=/dev/urandom", "of="+kept, "bs=1M", "count=40", "oflag=direct", "conv=notrunc", "status=none"); r.code != 0 {
		t.Errorf("overwriting at the quota: %s", r.stderr)
	}
	want = sum(t, kept)

	n.kill(ctx)
	n.serve(ctx)
	if r := run(ctx, "dd", "if=/dev/urandom", "of="+fill+"2", "bs=1M", "count=100", "oflag=direct", "status=none"); r.code == 0 {
		t.Error("the next daemon lets writes go beyond the quota")
	}
	for _, name := range []string{fill, fill + "2"} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	must(ctx, t, "sync", "-f", m.dir)
	must(ctx, t, "fstrim", m.dir)
	must(ctx, t, "dd", "if=/dev/urandom", "of="+fill, "bs=1M", "count=30", "conv=fsync", "status=none")
	n.varve(ctx, "volume", "set", "limited", "--quota", "200M")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+fill+"2", "bs=1M", "count=90", "conv=fsync", "status=none")
	dropCaches(t)
	if got := sum(t, kept); got != want {
		t.Error("what was synced has changed")
	}
	m.unmount(ctx)
	fsNamed("ext4").fsck(ctx, t, dev)
	n.stop(ctx, "--detach")
}

// TestReservationUnderLoad fills the store's disk through one device, and goes on writing there,
// while another volume writes all that was reserved for it: no write of that one fails, before and
// after its daemon was killed on the full disk.
func TestReservationUnderLoad(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	disk := newSmallDisk(ctx, t, fsNamed("ext4"), 400)
	n := newNodeAt(ctx, t, filepath.Join(disk.m.dir, "store"))
	n.serve(ctx)
	kept, other := n.volume(ctx, "kept", "256M"), n.volume(ctx, "other", "1G")
	n.varve(ctx, "volume", "set", "kept", "--reserve", "120M")
	n.refuse(ctx, []string{`"other"`, "no space", "more are free"}, "volume", "set", "other", "--reserve", "900M")

	load := start(t, "sh", "-c", `while :; do
		dd if=/dev/urandom of="$0" bs=1M count=600 oflag=direct conv=notrunc status=none || echo full
		sleep 0.1
	done`, other)
	full := func() bool { return query[objstore.Stat](ctx, n, "stat").State == "full" }
	put := func(at, mib int) {
		t.Helper()
		if r := random(ctx, kept, at, mib, "oflag=direct"); r.code != 0 {
			t.Fatalf("write MiB %d to %d of what is reserved: %s", at, at+mib, r.stderr)
		}
	}
	put(0, 30)
	eventually(t, time.Minute, "the store is full for others", full)
	put(30, 30)
	want := sumStart(ctx, t, kept, 60)
	n.kill(ctx)
	n.serve(ctx)
	put(60, 55)
	eventually(t, time.Minute, "the store is full for others again", full) // collections free what was overwritten
	if !load.running() {
		t.Errorf("the other volume no longer fills the store: %v", load.err)
	}
	fit := 0
	for fit < 4 && random(ctx, other, 700+64*fit, 64, "oflag=direct").code == 0 { // a collection may just have made room
		fit++
	}
	if fit == 4 {
		t.Error("256 MiB more of the other volume fit: the store was not full")
	}
	if got := sumStart(ctx, t, kept, 60); got != want {
		t.Error("what was written into the reservation has changed")
	}
	_ = syscall.Kill(-load.cmd.Process.Pid, syscall.SIGKILL)
	<-load.done
	n.stop(ctx, "--detach")
}
