//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// beside runs fio's verification of a device beside what a test does, until end is called: it must
// have met no error.
func beside(t *testing.T, dev string) (end func()) {
	t.Helper()
	job := start(t, "fio", fioVerify(dev, "--rw=randwrite", "--bsrange=4k-64k", "--size=16M", "--iodepth=4", "--loops=10000",
		"--rate=4m", "--verify_backlog=64")...)
	return func() {
		t.Helper()
		if !job.running() {
			t.Errorf("fio ended: %v\n%s", job.err, job.out.String())
		}
		job.cmd.Process.Kill()
		<-job.done
	}
}

// TestReindexBesideIO rebuilds the index beside verified I/O, and then has a killed daemon's
// successor make it from nothing. Devices are served meanwhile, and afterwards duplicates of what was
// there before are found.
func TestReindexBesideIO(t *testing.T) {
	const mib = 12
	ctx := limit(t, 2*time.Minute)
	n := failpointNode(ctx, t)
	n.serve(ctx)
	first := n.volume(ctx, "first", "64M")
	if r := random(ctx, first, 0, mib, "oflag=direct"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	n.snapshot(ctx, "first@settled")
	busy := n.volume(ctx, "busy", "64M")
	duplicates := func(name string) {
		t.Helper()
		n.snapshot(ctx, "busy@"+name) // nothing else settles
		before := query[stat](ctx, n, "stat")
		n.copied(ctx, first, name, mib)
		after := query[stat](ctx, n, "stat")
		if grown := after.Stored - before.Stored; grown > mib<<20/2 {
			t.Errorf("%s: a copy of %d MiB has added %d MiB: duplicates are not found", name, mib, grown>>20)
		}
	}
	end := beside(t, busy)
	if r := query[struct{ Complete bool }](ctx, n, "reindex", "--wait"); !r.Complete {
		t.Error("reindex --wait returned before it was complete")
	}
	end()
	duplicates("rebuilt")
	want := sum(t, first)

	n.stop(ctx)
	n.serve(ctx) // seals, so that there is something to index
	n.kill(ctx)
	if err := os.RemoveAll(filepath.Join(n.store, "index")); err != nil {
		t.Fatal(err)
	}
	n.env = []string{"VARVE_FAILPOINT_ERROR=index:2", "VARVE_FAILPOINT_HASTE=6"} // as it is opened, and filled, which is tried again
	n.serve(ctx)
	if r := random(ctx, busy, 0, 1, "oflag=direct"); r.code != 0 {
		t.Errorf("write without an index: %s", r.stderr)
	}
	if got := sum(t, first); got != want {
		t.Error("the device has other bytes without an index")
	}
	unindexed := func() int {
		return query[struct {
			Unindexed int `json:"unindexed_segments"`
		}](ctx, n, "stat").Unindexed
	}
	if unindexed() == 0 {
		t.Error("the index is complete before the device was read and written: it was filled first")
	}
	eventually(t, time.Minute, "the index is complete", func() bool { return unindexed() == 0 })
	duplicates("made")
	noIOErrors(ctx, t, busy)
	n.check(ctx, 0)
}

// copied makes a volume of what a device begins with, and waits until it has settled.
func (n *node) copied(ctx context.Context, from, name string, mib int) {
	n.t.Helper()
	if r := run(ctx, "dd", "if="+from, "of="+n.volume(ctx, name, "64M"), "bs=1M", fmt.Sprint("count=", mib), "iflag=direct", "oflag=direct", "status=none"); r.code != 0 {
		n.t.Fatal(r.stderr)
	}
	n.snapshot(ctx, name+"@settled")
}
