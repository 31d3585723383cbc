//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestDeviceServedBeforeIndexIsFull: the daemon is killed under a mounted filesystem, and the index is lost. Its successor
// serves the device while the index is empty; filesystem and snapshots are whole, what is written settles, and the index is
// complete in the end.
func TestDeviceServedBeforeIndexIsFull(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	n := failpointNode(ctx, t)
	n.serve(ctx)
	for i := range 10 { // each has a segment of its own
		name := fmt.Sprintf("idle%d", i)
		dev := n.volume(ctx, name, "16M")
		must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=2", "oflag=direct", "conv=fsync", "status=none")
		n.varve(ctx, "detach", name)
	}
	ext4 := fsNamed("ext4")
	dev := n.volume(ctx, "used", "1G")
	ext4.make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	must(ctx, t, "cp", "-a", sourceTree(t), m.dir)
	root := n.snapshot(ctx, "used@before")
	n.stop(ctx)
	n.serve(ctx) // seals
	must(ctx, t, "cp", "-a", sourceTree(t), filepath.Join(m.dir, "again"))
	n.kill(ctx)
	if err := os.RemoveAll(filepath.Join(n.store, "index")); err != nil {
		t.Fatal(err)
	}

	n.env = []string{"VARVE_FAILPOINT_ERROR=index:1", "VARVE_FAILPOINT_HASTE=3"} // the indexer waits for 20 s
	n.serve(ctx)
	type indexed struct {
		Unindexed int `json:"unindexed_segments"`
	}
	compareTree(t, filepath.Join(m.dir, "src"))
	must(ctx, t, "cp", "-a", sourceTree(t), filepath.Join(m.dir, "later"))
	must(ctx, t, "sync", "-f", m.dir)
	must(ctx, t, "sh", "-c", "echo 3 >/proc/sys/vm/drop_caches")
	compareTree(t, filepath.Join(m.dir, "src"))
	compareTree(t, filepath.Join(m.dir, "again"))
	if left := query[indexed](ctx, n, "stat").Unindexed; left < 10 {
		t.Errorf("the index lacks %d segments when all has been read: it was filled first", left)
	}
	if again := n.snapshot(ctx, "used@meanwhile"); again == root {
		t.Error("the snapshot has not changed")
	}
	eventually(t, time.Minute, "the index is complete", func() bool { return query[indexed](ctx, n, "stat").Unindexed == 0 })
	compareTree(t, filepath.Join(m.dir, "later"))
	m.unmount(ctx)
	ext4.fsck(ctx, t, dev)
	noIOErrors(ctx, t, dev)
	n.check(ctx, 0)
}
