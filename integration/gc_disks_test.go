//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// TestSpaceComesBackOnEveryDisk deletes snapshots, a clone and a volume on each filesystem that a
// store may lie on, beside I/O: as the filesystem below says, collections give back what they had
// for themselves, and as much as a dry run has said.
func TestSpaceComesBackOnEveryDisk(t *testing.T) {
	for _, below := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(below, func(t *testing.T) { spaceComesBackOn(t, below) })
	}
}

func spaceComesBackOn(t *testing.T, below string) {
	const mib = 24
	ctx := limit(t, 3*time.Minute)
	dir := diskFor(ctx, t, below, 500).m.dir
	n := newNodeAt(ctx, t, filepath.Join(dir, "store"))
	n.serve(ctx)
	n.varve(ctx, "set", "--gc-rate", "none")
	dev := n.volume(ctx, "data", "256M")
	write := func(dev string, at int) {
		t.Helper()
		if r := random(ctx, dev, at, mib, "oflag=direct"); r.code != 0 {
			t.Fatal(r.stderr)
		}
	}
	write(dev, 0)
	n.collect(ctx)
	least := usedOn(t, dir)

	n.snapshot(ctx, "data@one")
	write(dev, 0)
	n.snapshot(ctx, "data@two")
	n.varve(ctx, "volume", "clone", "data@one", "copy")
	write(n.attach(ctx, "copy"), 64)
	write(n.volume(ctx, "other", "256M"), 0)
	n.snapshot(ctx, "copy@settled")
	n.snapshot(ctx, "other@settled")
	for _, volume := range []string{"copy", "other"} {
		n.varve(ctx, "detach", volume)
		n.varve(ctx, "snapshot", "delete", volume+"@settled")
		n.varve(ctx, "volume", "delete", volume)
	}
	n.postponeCollection(ctx)
	n.varve(ctx, "snapshot", "delete", "data@one", "data@two")
	want := sumStart(ctx, t, dev, mib)
	stop := writeBeside(t, dev, 128<<20)
	const dead = 3 * mib << 20
	if held := usedOn(t, dir); held < least+dead*9/10 {
		t.Errorf("%d MiB are used before the collection, want at least %d MiB", held>>20, (least+dead*9/10)>>20)
	}
	would := query[collected](ctx, n, "gc", "--dry-run").Report
	freed := n.collect(ctx).Freed
	stop()
	freed += n.collect(ctx).Freed // the segment that was written to meanwhile
	if would == nil || !within(freed, would.Freed, dead/10) {
		t.Errorf("a dry run: %+v; %d bytes were freed", would, freed)
	}
	if used := usedOn(t, dir); used > least+dead/10 {
		t.Errorf("%d MiB are used, want %d MiB and at most a tenth of what was deleted, %d MiB", used>>20, least>>20, dead>>20)
	}
	if got := sumStart(ctx, t, dev, mib); got != want {
		t.Error("the volume has other bytes than before the collection")
	}
	n.check(ctx, 0)
	n.stop(ctx, "--detach")
}

// diskFor returns a new filesystem of some MiB.
func diskFor(ctx context.Context, t *testing.T, below string, mib int) *smallDisk {
	t.Helper()
	if below != "tmpfs" {
		return newSmallDisk(ctx, t, fsNamed(below), mib)
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dM", mib)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return &smallDisk{t: t, m: &mounted{dir: dir}, ballast: filepath.Join(dir, "ballast")}
}

// TestCollectionOnFullDisk: on a disk of which others have taken the last byte, snapshots are deleted,
// the daemon starts again, and a collection gives back what is dead. Where little more is free than
// the reserve, a write waits until the store has collected by itself.
func TestCollectionOnFullDisk(t *testing.T) {
	for _, below := range []string{"ext4", "btrfs", "xfs", "tmpfs"} {
		if (below == "xfs" || below == "tmpfs") && !long() {
			continue
		}
		t.Run(below, func(t *testing.T) { collectionOnFullDisk(t, below) })
	}
}

func collectionOnFullDisk(t *testing.T, below string) {
	const mib, keptMiB = 96, 16
	ctx := limit(t, 3*time.Minute)
	disk := diskFor(ctx, t, below, 450)
	n := newNodeAt(ctx, t, filepath.Join(disk.m.dir, "store"))
	n.serve(ctx)
	n.varve(ctx, "set", "--gc-rate", "none")
	dev := n.volume(ctx, "data", "1G")
	// die writes and overwrites: what it wrote first is dead once the snapshot is deleted.
	die := func(snapshot string) {
		t.Helper()
		for _, at := range []int{0, mib / 2} {
			if r := random(ctx, dev, at, mib/2, "oflag=direct"); r.code != 0 {
				t.Fatal(r.stderr)
			}
			if r := random(ctx, dev, 512+at, keptMiB/2, "oflag=direct"); r.code != 0 {
				t.Fatal(r.stderr)
			}
		}
		n.snapshot(ctx, "data@"+snapshot)
		must(ctx, t, "blkdiscard", "-l", fmt.Sprint(mib<<20), dev)
		n.snapshot(ctx, "data@empty")
		n.varve(ctx, "snapshot", "delete", "data@empty")
	}
	die("dead")
	kept := func() string {
		return must(ctx, t, "sh", "-c", "dd if="+dev+" bs=1M skip=512 count=64 iflag=direct status=none | sha256sum")
	}
	want := kept()
	disk.fill()
	n.varve(ctx, "snapshot", "delete", "data@dead")
	n.kill(ctx)
	n.serve(ctx)
	full := usedOn(t, disk.m.dir)
	r := n.collect(ctx)
	if freed := full - usedOn(t, disk.m.dir); freed < mib<<20*9/10 {
		t.Errorf("%d MiB are free after a collection on the full disk, want about %d: %+v", freed>>20, mib, r)
	}
	if kept() != want {
		t.Error("the volume has other bytes than before the collection")
	}
	disk.release()
	eventually(t, roomBack, "there is room", func() bool { return query[spaceStat](ctx, n, "stat").State == "ok" })

	die("dead-too")
	disk.leave(query[spaceStat](ctx, n, "stat").Reserve + 8<<20)
	if r := random(ctx, dev, 700, 100, "oflag=direct"); !strings.Contains(r.stderr, "No space left") {
		t.Errorf("a write where there is no room, and nothing is dead: status %d, %s", r.code, r.stderr)
	}
	n.varve(ctx, "snapshot", "delete", "data@dead-too")
	began := time.Now()
	if r := random(ctx, dev, 900, 16, "oflag=direct"); r.code != 0 {
		t.Errorf("a write does not wait for a collection: %s; %+v", r.stderr, query[objstore.Stat](ctx, n, "stat").Collect)
	}
	t.Logf("the write took %v", time.Since(began))
	n.check(ctx, 0)
	n.stop(ctx, "--detach")
}

// leave allocates free space but for some bytes.
func (d *smallDisk) leave(bytes int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.ballast, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(d.m.dir, &st); err != nil {
		d.t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-bytes); err != nil {
		d.t.Fatal(err)
	}
}

// writeBeside writes the same block at an offset of a device over and over, reads it back, and
// flushes, until stop is called.
func writeBeside(t *testing.T, dev string, off int64) (stop func()) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_RDWR|unix.O_DSYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var end atomic.Bool
	done := make(chan error, 1)
	go func() {
		b, got := make([]byte, 16<<10), make([]byte, 16<<10)
		for round := byte(1); !end.Load(); round++ {
			for i := range b {
				b[i] = round
			}
			if _, err := f.WriteAt(b, off); err != nil {
				done <- err
				return
			}
			if _, err := f.ReadAt(got, off); err != nil || got[0] != round || got[len(got)-1] != round {
				t.Errorf("round %d reads %d and %d, %v", round, got[0], got[len(got)-1], err)
			}
		}
		done <- nil
	}()
	return func() {
		end.Store(true)
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = f.Close()
	}
}
