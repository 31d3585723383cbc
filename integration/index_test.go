//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// indexRetry is after what time the indexer tries again what has failed; VARVE_FAILPOINT_HASTE divides
// it. Before, the index is not complete, however slow the machine is.
const indexRetry = time.Minute

// TestDeviceServedBeforeIndexIsFull: the daemon is killed under a mounted filesystem, and the index
// is lost. Its successor serves the device while the index is empty; filesystem and snapshots are
// whole, what is written settles, and the index is complete in the end.
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
	file := func(name string) string { return filepath.Join(m.dir, name) }
	must(ctx, t, "dd", "if=/dev/urandom", "of="+file("unsettled"), "bs=1M", "count=8", "conv=fsync", "status=none")
	unsettled := sum(t, file("unsettled"))
	must(ctx, t, "sh", "-c", "echo 3 >/proc/sys/vm/drop_caches")
	n.kill(ctx)
	if err := os.RemoveAll(filepath.Join(n.store, "index")); err != nil {
		t.Fatal(err)
	}

	n.env = []string{"VARVE_FAILPOINT_ERROR=index:2", "VARVE_FAILPOINT_HASTE=3"} // opening, then the indexer, which waits for 20 s
	began := time.Now()
	n.serve(ctx)
	type indexed struct {
		Unindexed int `json:"unindexed_segments"`
	}
	must(ctx, t, "dd", "if="+file("unsettled"), "of=/dev/null", "bs=1M", "status=none")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+file("later"), "bs=1M", "count=4", "conv=fsync", "status=none")
	if left := query[indexed](ctx, n, "stat").Unindexed; left < 10 && time.Since(began) < indexRetry/3 {
		t.Errorf("the index lacks %d segments when the device is read and written: it was filled first", left)
	}
	wantLog(t, n, "the index is not complete") // opening left the sealed segments to the indexer
	later := sum(t, file("later"))
	compareTree(t, file("src"))
	if again := n.snapshot(ctx, "used@meanwhile"); again == root {
		t.Error("the snapshot has not changed")
	}
	eventually(t, time.Minute, "the index is complete", func() bool { return query[indexed](ctx, n, "stat").Unindexed == 0 })
	if sum(t, file("unsettled")) != unsettled || sum(t, file("later")) != later {
		t.Error("what was written before the kill, or after it, has changed")
	}
	m.unmount(ctx)
	ext4.fsck(ctx, t, dev)
	noIOErrors(ctx, t, dev)
	n.check(ctx, 0)
}
