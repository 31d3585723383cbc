//go:build integration

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"varve/objstore/failpoint"
)

// way is how the daemon reaches a kill point.
type way int

const (
	byChurn   way = iota // under load, while commands run
	byCollect            // the same, with collections instead of checks and rebuilds of the index
	byOpen               // when started after a kill
	byStop               // when stopped
	fromOld              // as the predecessor of a handover
	toNew                // as the successor of a handover
	unreached            // not in this test; the table has the reason
)

// killPoint is a point of the daemon's work at which to kill it.
type killPoint struct {
	point  failpoint.Point
	way    way
	most   int             // the kill is at one of the first most times that the point is reached
	after  failpoint.Point // byOpen: the previous kill that leads there, or none for any
	reason string          // unreached: why
}

// killPoints are all points of the daemon.
var killPoints = []killPoint{
	{point: failpoint.WriteJournaled, most: 500},
	{point: failpoint.FlushData, most: 40},
	{point: failpoint.FlushCommit, most: 40},
	{point: failpoint.FlushDone, most: 40},
	{point: failpoint.JournalFile, most: 6},
	{point: failpoint.JournalNamed, most: 6},
	{point: failpoint.RollCreated, most: 6},
	{point: failpoint.RollFrozen, most: 6},
	{point: failpoint.LogWritten, most: 40},
	{point: failpoint.LogSynced, most: 40},
	{point: failpoint.SegmentMade, most: 8},
	{point: failpoint.SegmentRolled, most: 6},
	{point: failpoint.ObjectLogMade, most: 6},
	{point: failpoint.SealFooter, most: 4},
	{point: failpoint.SealHeader, most: 4},
	{point: failpoint.SealDone, most: 4},
	{point: failpoint.IndexEntered, way: byOpen, most: 1},
	{point: failpoint.RetireRemoved, most: 2},
	{point: failpoint.ReindexBegun, most: 2},
	{point: failpoint.ReindexFilled, most: 2},
	{point: failpoint.ReindexInstalled, most: 2},
	{point: failpoint.SettleCopied, most: 100},
	{point: failpoint.SettleTree, most: 6},
	{point: failpoint.SettleSynced, most: 6},
	{point: failpoint.SettleRecorded, most: 8},
	{point: failpoint.SettleIndexed, most: 8},
	{point: failpoint.SettleRefs, most: 6},
	{point: failpoint.SettleBase, most: 6},
	{point: failpoint.ReclaimJournal, most: 6},
	{point: failpoint.ReclaimPunched, most: 6},
	{point: failpoint.CollectBarrier, most: 2},
	{point: failpoint.CollectMarked, most: 2},
	{point: failpoint.CollectDrafted, most: 3},
	{point: failpoint.CollectRecorded, most: 3},
	{point: failpoint.CollectUncover, most: 3},
	{point: failpoint.CollectPunched, most: 3},
	{point: failpoint.CollectIndexed, most: 3},
	{point: failpoint.VolumeCreated, most: 1},
	{point: failpoint.VolumeDeleted, most: 1},
	{point: failpoint.VolumeDropped, most: 1},
	{point: failpoint.SnapshotFrozen, most: 2},
	{point: failpoint.SnapshotFlushed, most: 2},
	{point: failpoint.SnapshotNamed, most: 2},
	{point: failpoint.SnapshotDeleted, most: 2},
	{point: failpoint.SuperblockFirst, most: 2},
	{point: failpoint.CloneSettled, most: 1},
	{point: failpoint.RollbackRecorded, most: 1},
	{point: failpoint.CheckVerified, most: 3},
	{point: failpoint.EvacuateCopied, way: byCollect, most: 1},
	{point: failpoint.EvacuateRecorded, way: byCollect, most: 1},
	{point: failpoint.EvacuateIndexed, way: byCollect, most: 1},
	{point: failpoint.EvacuateVacated, way: byCollect, most: 1},
	{point: failpoint.RetireRecorded, way: byCollect, most: 1},
	{point: failpoint.EvacuateUnlinked, way: byCollect, most: 1},
	{point: failpoint.ResizeStored, most: 1},
	{point: failpoint.ResizeRecorded, most: 1},
	{point: failpoint.VolumeRenamed, most: 1},
	{point: failpoint.SnapshotRenamed, most: 1},
	{point: failpoint.CloseCommitted, way: byStop, most: 2},
	{point: failpoint.RecoverRefs, way: byOpen, most: 1},
	{
		point: failpoint.RecoverCompact, way: unreached,
		reason: "the refs log is written anew when it has grown to a megabyte; TestKilledAtEveryPoint of objstore has it",
	},
	{
		point: failpoint.RecoverCompacted, way: unreached,
		reason: "as recover.compact",
	},
	{point: failpoint.RecoverSegments, way: byOpen, most: 1},
	{point: failpoint.RecoverIndexed, way: byOpen, most: 1},
	{point: failpoint.RecoverDropped, way: byOpen, most: 2},
	{point: failpoint.RecoverReplayed, way: byOpen, most: 2},
	{point: failpoint.RecoverWiped, way: byOpen, most: 2},
	{point: failpoint.RecoverCommit, way: byOpen, most: 2},
	{point: failpoint.RecoverFinished, way: byOpen, most: 2},
	{point: failpoint.RecoverJournals, way: byOpen, most: 1},
	{point: failpoint.RecoverEmptied, way: byOpen, most: 1, after: failpoint.ObjectLogMade},
	{point: failpoint.RecoverSwept, way: byOpen, most: 1},
	{point: failpoint.AttachAdded, most: 2},
	{point: failpoint.AttachParams, most: 2},
	{point: failpoint.AttachFetched, most: 2},
	{point: failpoint.AttachStarted, most: 2},
	{point: failpoint.DetachStopped, most: 1},
	{point: failpoint.DetachDeleted, most: 1},
	{point: failpoint.QuiesceHeld, way: byStop, most: 2},
	{point: failpoint.TakeoverStarted, way: byOpen, most: 2},
	{point: failpoint.TakeoverFetched, way: byOpen, most: 2},
	{point: failpoint.TakeoverEnded, way: byOpen, most: 2},
	{point: failpoint.AttachOpened, most: 2},
	{point: failpoint.AttachListed, most: 2},
	{point: failpoint.DetachListed, most: 1},
	{point: failpoint.TakeoverRead, way: byOpen, most: 1},
	{point: failpoint.TakeoverDone, way: byOpen, most: 1},
	{point: failpoint.UpgradeQuiet, way: fromOld, most: 1},
	{point: failpoint.UpgradeQuiesced, way: fromOld, most: 1},
	{point: failpoint.UpgradeClosed, way: fromOld, most: 1},
	{point: failpoint.UpgradeGiven, way: fromOld, most: 1},
	{point: failpoint.UpgradeEnded, way: fromOld, most: 1},
	{point: failpoint.UpgradeReceived, way: toNew, most: 1},
	{point: failpoint.UpgradeOpened, way: toNew, most: 1},
	{point: failpoint.UpgradeRecovered, way: toNew, most: 1},
	{point: failpoint.UpgradeThanked, way: toNew, most: 1},
}

// TestKillAtPoints kills the daemon at all named points of its work, while a tree is copied to an
// ext4 on one of its devices, fio writes and verifies another, and snapshots, volumes and devices
// are created and deleted. The next daemon, sometimes killed in turn while it recovers, continues:
// users of the devices see no error, and everything is there at the end.
//
// VARVE_CRASH_KILLS is the number of kills at each point; without it, the test draws a few points.
// VARVE_CRASH_SEED selects them, and VARVE_CRASH_POINT restricts the test to points with that
// prefix.
func TestKillAtPoints(t *testing.T) {
	seed := uint64(crashNumber(t, "VARVE_CRASH_SEED", 0))
	if seed == 0 {
		seed = uint64(time.Now().UnixNano() % 1e9)
	}
	t.Logf("VARVE_CRASH_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 7))
	points := drawPoints(t, r)
	ctx := limit(t, 2*time.Minute+time.Duration(len(points))*10*time.Second)
	k := newKilling(ctx, t, r)
	for _, p := range points {
		k.meet(p)
	}
	k.serve()
	k.finish()
}

// drawPoints returns the points to kill at, in random order.
func drawPoints(t *testing.T, r *rand.Rand) []killPoint {
	t.Helper()
	var some []killPoint
	for _, p := range killPoints {
		if p.way == unreached {
			t.Logf("%s: %s", p.point, p.reason)
			continue
		}
		if strings.HasPrefix(string(p.point), os.Getenv("VARVE_CRASH_POINT")) {
			some = append(some, p)
		}
	}
	if len(some) == 0 {
		t.Fatalf("VARVE_CRASH_POINT=%q: no such point", os.Getenv("VARVE_CRASH_POINT"))
	}
	times := crashNumber(t, "VARVE_CRASH_KILLS", 0)
	var all []killPoint
	for range max(times, 1) {
		all = append(all, some...)
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if times == 0 {
		all = all[:min(len(all), 10)]
	}
	return all
}

// TestKillPointsComplete: the table has each point once.
func TestKillPointsComplete(t *testing.T) {
	var listed []failpoint.Point
	for _, p := range killPoints {
		if slices.Contains(listed, p.point) {
			t.Errorf("%s is listed twice", p.point)
		}
		listed = append(listed, p.point)
	}
	for _, p := range failpoint.Points() {
		if !slices.Contains(listed, p) {
			t.Errorf("%s is not listed", p)
		}
	}
}

// killing is a store under load whose daemons are killed.
type killing struct {
	ctx  context.Context
	t    *testing.T
	n    *node
	r    *rand.Rand
	log  string // the file to which daemons log the points that they reach
	seen int    // bytes of log that were examined

	fioDev, fsDev string
	m             *mounted
	verify, copy  *background

	count    int
	scratch  []string          // volumes that may exist
	snaps    map[string]string // acknowledged snapshots, with their roots if known
	clones   int               // of scratch volumes, ever made
	backs    []string          // snapshots of scratch volumes, to be deleted
	pending  *background       // writes to a scratch volume
	kills    int
	inOpen   int // kills during opening
	pointsOf map[failpoint.Point]int
}

func newKilling(ctx context.Context, t *testing.T, r *rand.Rand) *killing {
	t.Helper()
	program := os.Getenv("VARVE_BIN_FAILPOINT")
	if program == "" {
		t.Fatal("VARVE_BIN_FAILPOINT is not set: a varve that is built with -tags failpoint")
	}
	k := &killing{ctx: ctx, t: t, r: r, n: newNode(ctx, t), snaps: map[string]string{}, pointsOf: map[failpoint.Point]int{}}
	k.n.program, k.log = program, filepath.Join(t.TempDir(), "points")
	k.serve()
	k.fioDev = k.n.volume(ctx, "fio", "512M", "--queues", "2")
	k.fsDev = k.n.volume(ctx, "fs", "2G")
	ext4 := fsNamed("ext4")
	ext4.make(ctx, t, k.fsDev)
	k.m = mount(ctx, t, k.fsDev, "errors=remount-ro")
	k.verify = start(t, "fio", fioVerify(k.fioDev, "--rw=randwrite", "--bsrange=512-256k", "--size=64M", "--iodepth=8",
		"--loops=20000", "--rate=6m", "--verify_backlog=64")...)
	k.copy = start(t, "sh", "-c", fmt.Sprintf(`while :; do
		rm -rf %[2]s/old && cp -a %[1]s %[2]s/new && sync -f %[2]s && echo 1 >/proc/sys/vm/drop_caches &&
		diff -r %[1]s %[2]s/new && mv %[2]s/new %[2]s/old && sleep 0.3 || exit 1
	done`, k.tree(), k.m.dir))
	t.Cleanup(func() { // whatever has a device open waits for a daemon, if the test ends without one
		if t.Failed() && k.n.cmd == nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			k.launch("", 0)
			k.n.await(ctx)
		}
	})
	return k
}

// tree is the tree to copy: a part of the source tree, as this test is about moments and not
// amounts.
func (k *killing) tree() string { return filepath.Join(sourceTree(k.t), "net") }

// launch starts a daemon that dies when it reaches a point for the n-th time; at none if the point
// is empty.
func (k *killing) launch(point failpoint.Point, n int) {
	k.t.Helper()
	k.n.env = []string{"VARVE_FAILPOINT_LOG=" + k.log}
	if point != "" {
		k.n.env = append(k.n.env, fmt.Sprintf("VARVE_FAILPOINT=%s:%d", point, n))
	}
	k.n.launch("--settle-delay", "300ms", "--segment-size", "16M", "--log-level", "debug")
}

// serve starts a daemon that is not to be killed at a point.
func (k *killing) serve() {
	k.t.Helper()
	k.launch("", 0)
	if !k.n.await(k.ctx) {
		k.t.Fatalf("the daemon ended: %v\n%s", k.n.cmd.ProcessState, k.n.logTail())
	}
}

// meet kills a daemon at one point. No daemon runs before and after meet.
func (k *killing) meet(p killPoint) {
	k.t.Helper()
	if k.n.cmd != nil {
		k.n.kill(k.ctx)
	}
	passing := 1 + k.r.IntN(p.most)
	k.t.Logf("%s:%d", p.point, passing)
	began := time.Now()
	for try := 1; !k.try(p, passing); try++ {
		if try == 4 {
			k.t.Fatalf("%s was not reached\n%s", p.point, k.n.logTail())
		}
		passing = 1
	}
	k.kills++
	k.pointsOf[p.point]++
	if took := time.Since(began); took > 8*time.Second {
		k.t.Logf("%s: %.1f s", p.point, took.Seconds())
	}
	for _, b := range []*background{k.verify, k.copy} {
		if !b.running() {
			k.t.Fatalf("after %s: %s ended: %v\n%s", p.point, b.cmd.Args[0], b.err, b.out.String())
		}
	}
}

// try runs a daemon to a point by its way. It returns false if the point was not reached.
func (k *killing) try(p killPoint, passing int) bool {
	k.t.Helper()
	switch p.way {
	case byOpen:
		if p.after != "" {
			k.try(killPoint{point: p.after, most: 1}, 1+k.r.IntN(2))
		}
		k.launch(p.point, passing)
		if k.n.await(k.ctx) {
			k.load()
			k.n.kill(k.ctx)
			return false
		}
		k.inOpen++
	case byStop:
		k.launch(p.point, passing)
		if k.n.await(k.ctx) {
			k.load()
			k.n.try(k.ctx, "stop")
		}
	case fromOld:
		k.launch(p.point, passing)
		if k.n.await(k.ctx) {
			k.load()
			k.handOver(p.point, "VARVE_FAILPOINT=")
		}
	case toNew:
		k.launch("", 0)
		if k.n.await(k.ctx) {
			k.load()
			k.handOver(p.point, fmt.Sprintf("VARVE_FAILPOINT=%s:%d", p.point, passing))
		}
	default:
		k.launch(p.point, passing)
		if k.n.await(k.ctx) {
			k.churnUntilDeath(p.way, 40*time.Second)
		}
	}
	return k.died(p.point)
}

// load lets work accumulate.
func (k *killing) load() { time.Sleep(time.Duration(100+k.r.IntN(600)) * time.Millisecond) }

// died ends all daemons, and reports whether one has died at the point.
func (k *killing) died(point failpoint.Point) bool {
	k.t.Helper()
	if k.n.cmd != nil {
		_ = k.n.cmd.Process.Kill() // it may be dead
		k.n.awaitEnd(k.ctx)
		k.n.cmd = nil
	}
	b, err := os.ReadFile(k.log)
	if err != nil {
		k.t.Fatal(err)
	}
	news := string(b[k.seen:])
	k.seen = len(b)
	return strings.Contains(news, fmt.Sprintf("killed %s\n", point))
}

// handOver runs an upgrade in which one side dies at a point, after which the other side or another
// daemon serves. All daemons are ended.
func (k *killing) handOver(point failpoint.Point, successor string) {
	k.t.Helper()
	r := run(k.ctx, "env", successor, "VARVE_FAILPOINT_LOG="+k.log, k.n.program, "--store", k.n.store, "upgrade")
	k.t.Logf("upgrade, a death at %s: status %d %s", point, r.code, strings.TrimSpace(r.stderr))
	if point != failpoint.UpgradeThanked {
		eventually(k.t, 60*time.Second, "somebody serves after a death at "+string(point), k.n.answers)
	}
	if !k.n.answers() {
		return
	}
	pid := query[struct{ Daemon struct{ PID int } }](k.ctx, k.n, "stat").Daemon.PID
	time.Sleep(200 * time.Millisecond)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		k.t.Fatalf("kill process %d, which serves: %v", pid, err)
	}
	if pid != k.n.cmd.Process.Pid {
		eventually(k.t, 20*time.Second, "the killed daemon ends", func() bool { return syscall.Kill(pid, 0) != nil })
	}
}

// churnUntilDeath runs commands until the daemon is dead, or for a limited time.
func (k *killing) churnUntilDeath(w way, d time.Duration) {
	k.t.Helper()
	for end := time.Now().Add(d); !k.dead() && time.Now().Before(end); {
		k.churn(w)
	}
}

func (k *killing) dead() bool {
	select {
	case <-k.n.gone:
		return true
	default:
		return false
	}
}

// command runs one command. It returns false if the daemon is dead, which is the only reason for a
// failure.
func (k *killing) command(args ...string) (string, bool) {
	k.t.Helper()
	if k.dead() {
		return "", false
	}
	r := k.n.try(k.ctx, args...)
	if r.code != 0 {
		k.wantDead(r, args...)
		return "", false
	}
	return strings.TrimSpace(r.stdout), true
}

// unless is command where an error with some words is as good as success: an earlier daemon may have
// done it before its death.
func (k *killing) unless(words string, args ...string) bool {
	k.t.Helper()
	r := k.n.try(k.ctx, args...)
	if r.code == 0 || strings.Contains(r.stderr, words) {
		return !k.dead()
	}
	k.wantDead(r, args...)
	return false
}

// wantDead fails the test if a command failed although the daemon lives. That it is dead is known a
// little later than to the command whose connection it held.
func (k *killing) wantDead(r result, args ...string) {
	k.t.Helper()
	select {
	case <-k.n.gone:
	case <-time.After(time.Minute * patience()):
		k.t.Fatalf("varve %s: status %d, and the daemon lives\n%s%s", strings.Join(args, " "), r.code, r.stderr, k.n.logTail())
	}
}

// churn creates and deletes snapshots, volumes and devices.
func (k *killing) churn(w way) {
	k.t.Helper()
	k.tidy()
	k.count++
	snap, volume := fmt.Sprint("s", k.count), fmt.Sprint("t", k.count)
	if k.count%4 == 0 {
		if root, ok := k.command("snapshot", "create", "fs@"+snap, "--wait"); ok {
			k.snaps["fs@"+snap] = root
		}
	}
	if _, ok := k.command("snapshot", "create", "fio@"+snap); ok {
		k.snaps["fio@"+snap] = ""
	}
	switch {
	case w == byCollect:
		k.command("gc", "--wait")
	case k.count%2 == 0:
		k.command("set", "--new-uuid")
	default:
		k.command("check", "--percent", "30")
		k.command("reindex", "--wait")
		k.command("gc")
	}
	k.scratch = append(k.scratch, volume)
	if _, ok := k.command("volume", "create", volume, "--size", "16M"); !ok {
		return
	}
	if _, ok := k.command("snapshot", "create", volume+"@empty"); !ok { // which back goes back to
		return
	}
	if dev, ok := k.command("attach", volume); ok {
		k.write(dev)
		k.command("volume", "resize", volume, "20M")
	}
	if drop := fmt.Sprint("fio@s", k.count-1); !k.dead() {
		if _, there := k.snaps[drop]; there {
			delete(k.snaps, drop) // whether it is there, nobody knows from here on
			k.command("snapshot", "delete", drop)
		}
	}
}

// write writes to a scratch volume. If the daemon's death delays the write, it is completed later.
func (k *killing) write(dev string) {
	k.pending = start(k.t, "dd", "if=/dev/urandom", "of="+dev, "bs=256k", "count=8", "oflag=direct", "conv=fsync", "status=none")
	select {
	case <-k.pending.done:
	case <-k.n.gone:
	}
}

// tidy deletes the scratch volumes that exist.
func (k *killing) tidy() {
	k.t.Helper()
	if k.pending != nil {
		select {
		case <-k.pending.done:
		case <-k.n.gone:
			return
		case <-k.ctx.Done():
			k.t.Fatalf("writes to a scratch volume do not end\n%s", k.n.logTail())
		}
		if k.pending.err != nil {
			k.t.Errorf("dd: %v %s", k.pending.err, k.pending.out.String())
		}
		k.pending = nil
	}
	for len(k.scratch) > 0 && !k.dead() {
		name := k.scratch[0]
		if r := k.n.try(k.ctx, "volume", "show", name); r.code != 0 && strings.Contains(r.stderr, "not found") {
			k.scratch = k.scratch[1:]
			continue
		}
		if r := k.n.try(k.ctx, "detach", name); r.code != 0 && !strings.Contains(r.stderr, "neither an attached volume") {
			if _, ok := k.command("detach", name); !ok {
				return
			}
		}
		if !strings.Contains(name, "-") && !k.back(name) {
			return
		}
		if _, ok := k.command("volume", "delete", name); !ok {
			return
		}
		k.scratch = k.scratch[1:]
	}
}

// back clones a scratch volume, which is not attached, rolls it back to what it was before it was
// written, and renames the clone and the snapshot. It returns false if the daemon died. The clones
// are scratch volumes too.
func (k *killing) back(name string) bool {
	k.t.Helper()
	k.clones++
	clone, snap := fmt.Sprintf("%s-%d", name, k.clones), name+"@empty"
	k.scratch = append(k.scratch, clone, clone+"-renamed")
	renamed := fmt.Sprintf("empty-%d", k.clones)
	k.backs = append(k.backs, snap, name+"@"+renamed)
	if !k.unless("exists", "snapshot", "create", snap) { // if a death came between
		return false
	}
	for _, args := range [][]string{
		{"volume", "clone", name, clone},
		{"volume", "rollback", snap, "--no-snapshot"},
		{"volume", "rename", clone, clone + "-renamed"},
		{"snapshot", "rename", snap, renamed},
	} {
		if _, ok := k.command(args...); !ok {
			return false
		}
	}
	for len(k.backs) > 0 {
		if !k.unless("not found", "snapshot", "delete", k.backs[0]) {
			return false
		}
		k.backs = k.backs[1:]
	}
	return true
}

// finish ends the load and checks everything. A daemon is running.
func (k *killing) finish() {
	k.t.Helper()
	ctx, t := k.ctx, k.t
	k.tidy()
	k.verify.stop(ctx, t, syscall.SIGINT)
	parseFio(t, k.verify.out.String())
	k.copy.stop(ctx, t, syscall.SIGTERM)
	must(ctx, t, "rm", "-rf", filepath.Join(k.m.dir, "old"), filepath.Join(k.m.dir, "new"))
	must(ctx, t, "cp", "-a", k.tree(), filepath.Join(k.m.dir, "last"))
	k.m.unmount(ctx)
	fsNamed("ext4").fsck(ctx, t, k.fsDev)
	m := mount(ctx, t, k.fsDev, "ro")
	must(ctx, t, "diff", "-r", k.tree(), filepath.Join(m.dir, "last"))
	m.unmount(ctx)
	fio(ctx, t, fioVerify(k.fioDev, "--rw=randwrite", "--bsrange=512-256k", "--size=16M", "--iodepth=16"))
	noIOErrors(ctx, t, k.fioDev)
	noIOErrors(ctx, t, k.fsDev)
	have := map[string]string{}
	for _, s := range query[[]struct{ Volume, Name, Root string }](ctx, k.n, "snapshot", "list") {
		have[s.Volume+"@"+s.Name] = s.Root
	}
	for name, root := range k.snaps {
		if got, ok := have[name]; !ok || root != "" && got != root {
			t.Errorf("snapshot %s, root %q, was answered; now it has root %q (there: %v)", name, root, got, ok)
		}
	}
	k.n.varve(ctx, "detach", "fs")
	k.n.varve(ctx, "detach", "fio")
	if left, _ := filepath.Glob("/dev/ublkc[0-9]*"); len(left) > 0 {
		t.Errorf("devices left over: %v", left)
	}
	t.Logf("%d points met; %d snapshots are as answered", len(k.pointsOf), len(k.snaps))
	t.Logf("crash: %d kills at points", k.kills)
	t.Logf("crash: %d kills of recoveries", k.inOpen)
}
