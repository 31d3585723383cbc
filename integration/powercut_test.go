//go:build integration

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"varve/integration/logwrites"
)

// TestPowerCut cuts the power under a store on a real filesystem: dm-log-writes records every write
// that reaches the disk, while filesystems on two volumes are in use. Then, for many points in the
// log, the disk is reconstructed as a power cut could have left it, and the store and the
// filesystems on its volumes are brought up and checked.
//
//	ext4 on volume "e"     xfs on volume "x"
//	log-writes             log-writes           what was written to each volume, and what was durable when
//	/dev/ublkb0            /dev/ublkb1
//	       \_______ the store ______/
//	        ext4, or xfs, with the store's files
//	        log-writes                          what reached the disk; replayed up to each cut
//	        loop device on tmpfs
//
// After a cut:
//   - the store opens, and has all acknowledged volumes and snapshots, with their roots
//   - each sector of a volume holds its durable content, or something that was written to it later
//   - the filesystems replay their journals, are clean, and have every file whose fsync had
//     returned
//   - recovered data settles, and reads the same afterwards and after another opening
//
// VARVE_CRASH_FS_CUTS is the number of cuts for both lower filesystems together. VARVE_CRASH_SEED
// selects the cuts; the test prints it. The recording depends on timing and differs in each run:
// with VARVE_CRASH_KEEP=DIR a recording in which a cut fails is kept there, and
// VARVE_CRASH_REPLAY=DIR/NAME uses it again.
func TestPowerCut(t *testing.T) {
	cuts, seed := crashNumber(t, "VARVE_CRASH_FS_CUTS", 60), uint64(crashNumber(t, "VARVE_CRASH_SEED", 0))
	if seed == 0 {
		seed = rand.Uint64() >> 1
	}
	for _, lower := range []string{"ext4", "xfs"} {
		t.Run("store on "+lower, func(t *testing.T) {
			perCut := 4 * time.Second
			ctx := limit(t, 2*time.Minute+time.Duration(cuts)*perCut)
			var rec *recording
			if dir := os.Getenv("VARVE_CRASH_REPLAY"); dir == "" {
				rec = record(ctx, t, lower, min(12+cuts/20, 60))
			} else if rec = loadRecording(t, dir); rec.Lower != lower {
				return
			}
			rec.read(t)
			rec.tryCuts(ctx, t, max(cuts/2, 1), seed)
		})
	}
}

// crashNumber reads one of the VARVE_CRASH_ variables.
func crashNumber(t *testing.T, name string, def int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s: want a number", name, s)
	}
	return n
}

// tryCuts tries cuts that are spread over the whole log.
func (rec *recording) tryCuts(ctx context.Context, t *testing.T, n int, seed uint64) {
	began, first := time.Now(), rec.marks[0]
	var points []int
	for i := first; i < len(rec.log.Entries); i++ {
		if rec.log.Entries[i].Mark == "" {
			points = append(points, i)
		}
	}
	r := rand.New(rand.NewPCG(seed, 5))
	t.Logf("%d entries in the log, %d writes, flushes and discards to cut at; %d cuts, VARVE_CRASH_SEED=%d", len(rec.log.Entries), len(points), n, seed)
	kinds := map[logwrites.Kind]int{}
	c := newChecker(ctx, t, rec)
	at, what := 0, ""
	defer func() {
		if t.Failed() {
			rec.keep(t, what)
		}
	}()
	for i := range n {
		// One point from each of n equal parts, whole ones where there are more cuts than points.
		lo, hi := i*len(points)/n, (i+1)*len(points)/n
		p := points[lo]
		if hi > lo+1 {
			p = points[lo+r.IntN(hi-lo)]
		}
		kind := logwrites.Kind(r.IntN(int(logwrites.Kinds)))
		cut := rec.log.CutAt(p, kind, r)
		if err := rec.log.Apply(c.disk, at, cut.Durable); err != nil {
			t.Fatal(err)
		}
		at = max(at, cut.Durable)
		kinds[kind]++
		what = fmt.Sprintf("cut %d at entry %d (%v)", i, p, cut)
		c.check(what, cut, i)
		if t.Failed() {
			return
		}
	}
	names := make([]string, 0, len(kinds))
	for k, n := range kinds {
		names = append(names, fmt.Sprintf("%v %d", k, n))
	}
	slices.Sort(names)
	took := time.Since(began)
	t.Logf("%d cuts of a store on %s tried in %.0f s: %v; %d through the daemon and a device", n, rec.Lower, took.Seconds(), names, c.devices)
	for _, l := range []struct {
		n    int
		what string
	}{
		{n, "cuts of a log"},
		{c.volumes, "volumes checked by sector"},
		{c.unflushed, "sectors newer than what was flushed"},
		{c.filesystems, "filesystems checked"},
		{c.files, "files checked"},
		{c.roots, "snapshots checked"},
		{c.contents, "snapshots read"},
	} {
		t.Logf("crash: %d %s", l.n, l.what)
	}
	if n >= 20 && (c.files == 0 || c.roots == 0 || c.unflushed == 0) {
		t.Errorf("the cuts found little to check: %d files, %d snapshots, %d sectors newer than the last flush", c.files, c.roots, c.unflushed)
	}
}

// keep saves a recording in which a cut has failed.
func (rec *recording) keep(t *testing.T, what string) {
	dir := os.Getenv("VARVE_CRASH_KEEP")
	if dir == "" {
		return
	}
	dir = filepath.Join(dir, "powercut-"+rec.Lower)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Error(err)
		return
	}
	must(context.Background(), t, "sh", "-c", fmt.Sprintf("cp --sparse=always %s/* %s", rec.dir, dir))
	t.Logf("%s: the recording is kept in %s", what, dir)
}
