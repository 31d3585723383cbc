//go:build integration

package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"varve/objstore"
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
		_ = job.cmd.Process.Kill() // it may have ended
		<-job.done
	}
}

// TestScheduledScrub has the schedule check a store with a flipped byte, beside verified I/O of
// another device. The daemon is killed in the middle, and its successor comes to the end: it names
// the damage in the log, and stat counts it; what is well stays readable throughout.
func TestScheduledScrub(t *testing.T) {
	const chunk, size = 16 << 10, 16 << 20
	ctx := limit(t, 2*time.Minute)
	n := failpointNode(ctx, t)
	n.env = []string{"VARVE_FAILPOINT_HASTE=60"} // the daemon looks at the schedule each second, and not each minute
	n.serve(ctx)
	data := make([]byte, size)
	if _, err := io.ReadFull(stream(1), data); err != nil {
		t.Fatal(err)
	}
	dev := n.volume(ctx, "still", "32M")
	writeDirect(t, dev, data)
	n.snapshot(ctx, "still@settled")
	busy := n.volume(ctx, "busy", "64M")
	const at = 700*chunk + 5000
	flipInStore(t, n.store, data[at/chunk*chunk:at/chunk*chunk+chunk], at%chunk)
	end := beside(t, busy)
	scrub := func() objstore.ScrubInfo { return query[objstore.Stat](ctx, n, "stat").Scrub }
	if s := scrub(); s.State != objstore.ScrubIdle || !s.LastEnded.IsZero() {
		t.Errorf("without a schedule: %+v", s)
	}
	n.varve(ctx, "set", "--scrub-every", "1d", "--scrub-rate", "3M")
	running := func() bool { s := scrub(); return s.State == objstore.ScrubRunning && s.Scheduled && s.Done > 0 }
	eventually(t, 30*time.Second, "the schedule's check runs", running)
	n.kill(ctx)
	n.serve(ctx)
	eventually(t, 30*time.Second, "it goes on after a kill", running)
	if s := scrub(); !s.LastEnded.IsZero() {
		t.Errorf("it has come to its end when half of it was left: %+v", s)
	}
	n.varve(ctx, "set", "--scrub-rate", "none")
	n.kill(ctx)
	n.serve(ctx)
	var s objstore.ScrubInfo
	eventually(t, time.Minute, "it comes to its end", func() bool { s = scrub(); return !s.LastEnded.IsZero() })
	end()
	if s.LastDamaged != 1 || s.LastBytes < size || s.State != objstore.ScrubIdle || s.Due.Sub(s.LastEnded) != 24*time.Hour {
		t.Errorf("the schedule's check has ended: %+v; want 1 damage in at least %d bytes, and the next one in a day", s, size)
	}
	wantLog(t, n, "still", "file=segments/")
	wantBytes(t, dev, data, at/chunk) // which is quarantined
	noIOErrors(ctx, t, busy)
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
	began := time.Now()
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
	if unindexed() == 0 && time.Since(began) < indexRetry/6 {
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
