//go:build integration

package integration

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"varve/objstore"
)

// TestSpaceComesBack fills a filesystem on a device, deletes files, trims it and deletes the
// snapshot that has them: a collection gives the space back, as the filesystem below the store says,
// also when the daemon is killed in the middle of one, and what was kept stays as it was.
func TestSpaceComesBack(t *testing.T) {
	ctx := limit(t, 8*time.Minute)
	ext4 := fsNamed("ext4")
	disk := newSmallDisk(ctx, t, ext4, 1200)
	n := newNodeAt(ctx, t, filepath.Join(disk.m.dir, "store"))
	n.serve(ctx)
	n.varve(ctx, "set", "--gc-rate", "none")
	dev := n.volume(ctx, "data", "1G")
	ext4.make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	kept := filepath.Join(sourceTree(t), "net")
	must(ctx, t, "cp", "-a", kept, filepath.Join(m.dir, "net"))
	must(ctx, t, "sync", "-f", m.dir)
	n.collect(ctx)
	least := usedOn(t, disk.m.dir)

	const mib = 160
	spaceIsBack := func(when string) {
		t.Helper()
		if used := usedOn(t, disk.m.dir); used > least+mib<<20/10 {
			t.Errorf("%s: %d MiB are used below the store, want %d MiB and at most a tenth of what was deleted, %d MiB",
				when, used>>20, least>>20, mib)
		}
	}
	n.fillAndDelete(ctx, m.dir, mib)
	held := usedOn(t, disk.m.dir)
	if held < least+mib<<20 {
		t.Fatalf("%d MiB are used before the collection, and %d MiB were before %d MiB were written", held>>20, least>>20, mib)
	}
	would := query[collected](ctx, n, "gc", "--dry-run").Report
	if would == nil || would.Freed < mib<<20*9/10 || usedOn(t, disk.m.dir) < held-1<<20 {
		t.Errorf("a dry run: %+v; used %d, before %d", would, usedOn(t, disk.m.dir), held)
	}
	r := n.collect(ctx)
	if r.Freed < mib<<20*9/10 {
		t.Errorf("%d MiB were freed, want about %d", r.Freed>>20, mib)
	}
	spaceIsBack("after a collection")
	if st := query[objstore.Stat](ctx, n, "stat").Collect; st.LastFreed != r.Freed || st.LastEnded.IsZero() {
		t.Errorf("stat says %+v after %d bytes were freed", st, r.Freed)
	}

	// The next one is slow, and killed.
	n.varve(ctx, "set", "--gc-rate", "256K")
	n.fillAndDelete(ctx, m.dir, mib)
	n.varve(ctx, "gc")
	n.awaitPhase(ctx, objstore.CollectMarking, objstore.CollectSweeping)
	n.kill(ctx)
	n.serve(ctx)
	must(ctx, t, "diff", "-r", kept, filepath.Join(m.dir, "net"))
	if rate := query[objstore.Stat](ctx, n, "stat").Collect.Rate; rate != 256<<10 {
		t.Errorf("the rate is %d after a kill", rate)
	}
	n.varve(ctx, "set", "--gc-rate", "none")
	n.collect(ctx)
	spaceIsBack("after a kill and a collection")

	n.check(ctx, 0)
	dropCaches(t)
	must(ctx, t, "diff", "-r", kept, filepath.Join(m.dir, "net"))
	m.unmount(ctx)
	ext4.fsck(ctx, t, dev)
	n.varve(ctx, "detach", "data")
	n.stop(ctx)
	if r := query[collected](ctx, n, "gc"); !r.Complete {
		t.Errorf("a collection without a daemon: %+v", r)
	}
}

// collected is what varve gc --json writes.
type collected struct {
	Complete bool                    `json:"complete"`
	Report   *objstore.CollectReport `json:"report"`
}

// fillAndDelete writes random data into a filesystem, and leaves nothing of it that refers to it.
func (n *node) fillAndDelete(ctx context.Context, dir string, mib int) {
	n.t.Helper()
	file := filepath.Join(dir, "large")
	if r := random(ctx, file, 0, mib); r.code != 0 {
		n.t.Fatal(r.stderr)
	}
	must(ctx, n.t, "sync", "-f", dir)
	n.snapshot(ctx, "data@before")
	if err := os.Remove(file); err != nil {
		n.t.Fatal(err)
	}
	must(ctx, n.t, "sync", "-f", dir)
	must(ctx, n.t, "fstrim", dir)
	n.snapshot(ctx, "data@after") // what was trimmed has settled
	n.postponeCollection(ctx)
	n.varve(ctx, "snapshot", "delete", "data@before", "data@after")
}

// postponeCollection has the daemon begin no collection by itself for a minute, which a test needs that
// looks at what one frees: it starts another daemon, and none collects sooner after it has opened the
// store, as long as there is room.
func (n *node) postponeCollection(ctx context.Context) {
	n.t.Helper()
	n.kill(ctx)
	n.serve(ctx)
}

// collect collects, and returns the report.
func (n *node) collect(ctx context.Context) objstore.CollectReport {
	n.t.Helper()
	c := query[collected](ctx, n, "gc", "--wait")
	if !c.Complete || c.Report == nil {
		n.t.Fatalf("varve gc --wait: %+v", c)
	}
	n.t.Logf("collected: %+v", *c.Report)
	return *c.Report
}

// awaitPhase waits until the collector is in one of the phases.
func (n *node) awaitPhase(ctx context.Context, phases ...objstore.CollectPhase) {
	n.t.Helper()
	for ctx.Err() == nil {
		now := query[objstore.Stat](ctx, n, "stat").Collect
		for _, p := range phases {
			if now.Phase == p {
				n.t.Logf("%s, %d of %d", now.Phase, now.Done, now.Total)
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.t.Fatal("no collection began")
}
