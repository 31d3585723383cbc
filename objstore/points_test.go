package objstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/refs"
)

// enginePoints are the points of the store, and how often at most each is passed by in a history of
// the child.
var enginePoints = []struct {
	point failpoint.Point
	most  int
}{
	{failpoint.WriteJournaled, 150},
	{failpoint.FlushData, 20},
	{failpoint.FlushCommit, 20},
	{failpoint.FlushDone, 20},
	{failpoint.JournalFile, 6},
	{failpoint.JournalNamed, 6},
	{failpoint.RollCreated, 6},
	{failpoint.RollFrozen, 6},
	{failpoint.LogWritten, 20},
	{failpoint.LogSynced, 20},
	{failpoint.SegmentMade, 3},
	{failpoint.SegmentRolled, 3},
	{failpoint.ObjectLogMade, 3},
	{failpoint.SealFooter, 1},
	{failpoint.SealHeader, 1},
	{failpoint.SealDone, 1},
	{failpoint.IndexEntered, 1},
	{failpoint.RetireRemoved, 1},
	{failpoint.ReindexBegun, 2},
	{failpoint.ReindexFilled, 2},
	{failpoint.ReindexInstalled, 2},
	{failpoint.SettleCopied, 20},
	{failpoint.SettleTree, 6},
	{failpoint.SettleSynced, 6},
	{failpoint.SettleRecorded, 8},
	{failpoint.SettleIndexed, 8},
	{failpoint.SettleRefs, 6},
	{failpoint.SettleBase, 6},
	{failpoint.ReclaimJournal, 6},
	{failpoint.ReclaimPunched, 6},
	{failpoint.CollectBarrier, 2},
	{failpoint.CollectMarked, 2},
	{failpoint.CollectDrafted, 2},
	{failpoint.CollectRecorded, 2},
	{failpoint.CollectUncover, 2},
	{failpoint.CollectPunched, 2},
	{failpoint.CollectIndexed, 2},
	{failpoint.VolumeCreated, 3},
	{failpoint.VolumeDeleted, 2},
	{failpoint.VolumeDropped, 1},
	{failpoint.SnapshotFrozen, 3},
	{failpoint.SnapshotFlushed, 3},
	{failpoint.SnapshotNamed, 3},
	{failpoint.SnapshotDeleted, 2},
	{failpoint.SuperblockFirst, 2},
	{failpoint.CloneSettled, 2},
	{failpoint.RollbackRecorded, 2},
	{failpoint.CheckVerified, 2},
	{failpoint.ResizeStored, 2},
	{failpoint.ResizeRecorded, 2},
	{failpoint.VolumeRenamed, 2},
	{failpoint.SnapshotRenamed, 2},
	{failpoint.EvacuateCopied, 2},
	{failpoint.EvacuateRecorded, 2},
	{failpoint.EvacuateIndexed, 2},
	{failpoint.EvacuateVacated, 2},
	{failpoint.RetireRecorded, 1},
	{failpoint.EvacuateUnlinked, 1},
	{failpoint.CloseCommitted, 2},
	{failpoint.RecoverRefs, 1},
	{failpoint.RecoverCompact, 1},
	{failpoint.RecoverCompacted, 1},
	{failpoint.RecoverSegments, 1},
	{failpoint.RecoverIndexed, 1},
	{failpoint.RecoverDropped, 1},
	{failpoint.RecoverReplayed, 2},
	{failpoint.RecoverWiped, 1},
	{failpoint.RecoverCommit, 1},
	{failpoint.RecoverFinished, 2},
	{failpoint.RecoverJournals, 1},
	{failpoint.RecoverEmptied, 1},
	{failpoint.RecoverSwept, 1},
}

// leadsTo is where a child must have died for the next one to come to a point in its recovery;
// elsewhere any death does.
var leadsTo = map[failpoint.Point]failpoint.Point{
	failpoint.RecoverEmptied: failpoint.ObjectLogMade,
}

// TestKilledAtEveryPoint kills a process at each named point of the store, on real files with the
// real index: what it has answered is there, and of what it was about, all or nothing.
// VARVE_CRASH_CUTS / 1000 is how often each is met.
func TestKilledAtEveryPoint(t *testing.T) {
	if dir := os.Getenv(killedDir); dir != "" {
		pointChild(dir)
		return
	}
	program := filepath.Join(t.TempDir(), "objstore.test")
	build := exec.Command("go", "test", "-c", "-tags", "failpoint", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	listed := map[failpoint.Point]bool{}
	for _, p := range enginePoints {
		listed[p.point] = true
	}
	for _, p := range failpoint.Points() {
		daemons := strings.HasPrefix(string(p), "attach.") || strings.HasPrefix(string(p), "detach.") || strings.HasPrefix(string(p), "quiesce.") ||
			strings.HasPrefix(string(p), "takeover.") || strings.HasPrefix(string(p), "upgrade.")
		if listed[p] == daemons {
			t.Errorf("%s: listed here: %v; a point of the daemon: %v", p, listed[p], daemons)
		}
	}
	seed, rounds := firstSeed(t), max(1, crashCuts(t, 0)/1000)
	var kills atomic.Int64
	t.Run("points", func(t *testing.T) {
		for round := range uint64(rounds) {
			for _, p := range enginePoints {
				t.Run(fmt.Sprintf("%s/seed%d", p.point, seed+round), func(t *testing.T) {
					t.Parallel()
					w := newPointWorld(t, program, seed+round)
					for range min(rounds, 3) { // a store that was recovered is as good as any other
						w.meet(p.point, p.most)
					}
					kills.Add(int64(w.kills))
				})
			}
		}
	})
	t.Logf("crash: %d kills at points of the store", kills.Load())
}

// pointWorld is a store, and what a child has said of it.
type pointWorld struct {
	t       *testing.T
	program string
	dir     string
	r       *rand.Rand
	vols    map[string]map[int]uint64            // volume -> block -> write that was answered
	snaps   map[string]map[string]map[int]uint64 // volume -> snapshot -> what it holds
	began   string                               // what the child was about when it died
	seq     uint64
	kills   int
}

func newPointWorld(t *testing.T, program string, seed uint64) *pointWorld {
	w := &pointWorld{
		t: t, program: program, dir: t.TempDir() + "/store", r: newRand(seed ^ uint64(disk.Checksum([]byte(t.Name())))),
		vols: map[string]map[int]uint64{}, snaps: map[string]map[string]map[int]uint64{},
	}
	must(t, Init(w.dir, InitOptions{ChunkSize: 4096}))
	return w
}

// meet kills a child at the point, and looks.
func (w *pointWorld) meet(p failpoint.Point, most int) {
	w.t.Helper()
	for try := 1; ; try++ {
		if strings.HasPrefix(string(p), "recover.") {
			before, n := leadsTo[p], 1
			if before == "" {
				before, n = failpoint.WriteJournaled, 20+w.r.IntN(100)
			}
			w.run(before, n)
		}
		if w.run(p, 1+w.r.IntN(most)) {
			break
		}
		if try == 8 {
			w.t.Fatalf("%s was not reached", p)
		}
		most = 1
	}
	w.look()
}

// run runs a child until it dies at the point; false if it came to the end of its work, which for a
// point of the recovery is that.
func (w *pointWorld) run(p failpoint.Point, n int) bool {
	w.t.Helper()
	opens := strings.HasPrefix(string(p), "recover.")
	if !opens {
		w.settleBegun()
	}
	cmd := exec.Command(w.program, "-test.run=^TestKilledAtEveryPoint$")
	cmd.Env = append(os.Environ(), killedDir+"="+w.dir, fmt.Sprintf("VARVE_FAILPOINT=%s:%d", p, n), fmt.Sprint("VARVE_TEST_KILLED_SEQ=", w.seq),
		fmt.Sprint("VARVE_TEST_KILLED_SEED=", w.r.Uint32()), fmt.Sprint("VARVE_TEST_KILLED_OPENS=", opens))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	must(w.t, err)
	must(w.t, cmd.Start())
	late := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	defer late.Stop()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		if what, ok := strings.CutPrefix(line, "do "); ok {
			w.began = what
		} else if line == "ok" {
			w.done(w.began)
			w.began = ""
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL { //nolint:forcetypeassert // of Linux
		w.kills++
		return true
	}
	if err != nil {
		w.t.Fatalf("a child, to be killed at %s:%d: %v\n%s", p, n, err, errs.String())
	}
	return false
}

// done takes what was answered into the model.
func (w *pointWorld) done(what string) {
	var vol, snap string
	var block int
	var seq uint64
	switch word := strings.Fields(what); word[0] {
	case "write":
		_, err := fmt.Sscanf(what, "write %s %d %d", &vol, &block, &seq)
		must(w.t, err)
		w.vols[vol][block], w.seq = seq, max(w.seq, seq)
	case "zero":
		_, err := fmt.Sscanf(what, "zero %s %d", &vol, &block)
		must(w.t, err)
		delete(w.vols[vol], block)
	case "create":
		w.vols[word[1]], w.snaps[word[1]] = map[int]uint64{}, map[string]map[int]uint64{}
	case "delete":
		delete(w.vols, word[1])
		delete(w.snaps, word[1])
	case "snapshot":
		vol, snap = word[1], word[2]
		held := map[int]uint64{}
		for b, s := range w.vols[vol] {
			held[b] = s
		}
		w.snaps[vol][snap] = held
	case "unsnapshot":
		delete(w.snaps[word[1]], word[2])
	case "clone":
		w.vols[word[2]], w.snaps[word[2]] = maps.Clone(w.vols[word[1]]), map[string]map[int]uint64{}
	case "rename":
		w.vols[word[2]], w.snaps[word[2]] = w.vols[word[1]], w.snaps[word[1]]
		delete(w.vols, word[1])
		delete(w.snaps, word[1])
	case "resnapshot":
		w.snaps[word[1]][word[3]] = w.snaps[word[1]][word[2]]
		delete(w.snaps[word[1]], word[2])
	case "rollback":
		w.vols[word[1]] = maps.Clone(w.snaps[word[1]][word[2]])
	}
}

// settleBegun finds out what became of the operation that a death has cut off, and takes it into
// the model if it was done. The store is opened for it.
func (w *pointWorld) settleBegun() {
	w.t.Helper()
	what := w.began
	if what == "" {
		return
	}
	w.began = ""
	word := strings.Fields(what)
	if word[0] == "write" || word[0] == "zero" {
		w.seq++ // a number of its own, whatever became of it
	}
	w.with(func(s *Store) {
		switch word[0] {
		case "write", "zero":
			var block int
			_, err := fmt.Sscan(word[2], &block)
			must(w.t, err)
			v, err := s.OpenVolume(word[1], "test")
			must(w.t, err)
			b := make([]byte, killedBlock)
			_, err = v.ReadAt(b, int64(block)*killedBlock)
			must(w.t, err)
			must(w.t, v.Close())
			if got := le.Uint64(b); got != w.vols[word[1]][block] {
				w.done(what)
			}
		case "create", "delete":
			_, err := s.VolumeInfo(word[1])
			if there := err == nil; there == (word[0] == "create") {
				w.done(what)
			}
		case "clone", "rename":
			if _, err := s.VolumeInfo(word[2]); err == nil {
				w.done(what)
			}
		case "resnapshot":
			if _, err := s.SnapshotInfo(word[1], word[3]); err == nil {
				w.done(what)
			}
		case "rollback": // all of it, or nothing: the rest is compared with what it has to be
			sn, err := s.SnapshotInfo(word[1], word[2])
			must(w.t, err)
			v, err := s.VolumeInfo(word[1])
			must(w.t, err)
			if v.Root == sn.Root && v.Tail == 0 {
				w.done(what)
			}
		case "snapshot", "unsnapshot":
			list, err := s.Snapshots(word[1])
			must(w.t, err)
			there := false
			for _, i := range list {
				there = there || i.Name == word[2]
			}
			if there == (word[0] == "snapshot") {
				w.done(what)
			}
		}
	})
}

func (w *pointWorld) with(f func(s *Store)) {
	w.t.Helper()
	s, err := openFree(w.dir, Options{SettleDelay: -1})
	must(w.t, err)
	f(s)
	must(w.t, s.Close())
}

// openFree opens a store whose lock may still be seen held: by processes that the test has forked
// for its other stores and that have not become their own program yet.
func openFree(dir string, o Options) (s *Store, err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if s, err = Open(context.Background(), dir, o); !errors.Is(err, ErrStoreLocked) {
			break
		}
	}
	return s, err
}

// look compares the store with the model, as it was recovered and once more when it has settled.
func (w *pointWorld) look() {
	w.t.Helper()
	w.settleBegun()
	w.with(func(s *Store) {
		w.compare(s)
		must(w.t, s.Settle(context.Background()))
		w.compare(s)
	})
	w.with(w.compare)
}

func (w *pointWorld) compare(s *Store) {
	w.t.Helper()
	if got := len(s.Volumes()); got != len(w.vols) {
		w.t.Fatalf("%d volumes, want %d", got, len(w.vols))
	}
	for name, blocks := range w.vols {
		v, err := s.OpenVolume(name, "test")
		must(w.t, err)
		w.compareImage(name, v, blocks)
		must(w.t, v.Close())
		list, err := s.Snapshots(name)
		must(w.t, err)
		if len(list) != len(w.snaps[name]) {
			w.t.Fatalf("volume %s: %d snapshots, want %d", name, len(list), len(w.snaps[name]))
		}
		for snap, held := range w.snaps[name] {
			view, err := s.OpenSnapshot(name, snap)
			must(w.t, err)
			w.compareImage(name+"@"+snap, view, held)
			must(w.t, view.Close())
		}
	}
}

func (w *pointWorld) compareImage(name string, im Image, blocks map[int]uint64) {
	w.t.Helper()
	b := make([]byte, im.Size())
	_, err := im.ReadAt(b, 0)
	must(w.t, err)
	for i := range len(b) / killedBlock {
		got, want := b[i*killedBlock:(i+1)*killedBlock], make([]byte, killedBlock)
		if seq := blocks[i]; seq != 0 {
			want = killedData(i, seq)
		}
		if !bytes.Equal(got, want) {
			w.t.Fatalf("%s: block %d holds write %d, want %d", name, i, le.Uint64(got), blocks[i])
		}
	}
}

// pointWorker is the child: it says what it is about to do, does it, and says that it is done.
type pointWorker struct {
	s     *Store
	r     *rand.Rand
	seq   uint64
	open  map[string]*Volume
	snaps []string
	n     int
}

const (
	pointOps    = 400
	pointBlocks = 256
)

func pointChild(dir string) {
	var seed uint64
	c := &pointWorker{open: map[string]*Volume{}}
	for name, v := range map[string]*uint64{"VARVE_TEST_KILLED_SEQ": &c.seq, "VARVE_TEST_KILLED_SEED": &seed} {
		_, err := fmt.Sscan(os.Getenv(name), v)
		c.must(err)
	}
	c.seq++ // the one before may have been begun, and is nobody else's
	c.r = newRand(seed)
	c.start(dir)
	if os.Getenv("VARVE_TEST_KILLED_OPENS") == "true" {
		c.stop()
		return
	}
	c.names()
	if strings.HasPrefix(os.Getenv("VARVE_FAILPOINT"), string(failpoint.WriteJournaled)) {
		c.grow()
	}
	for c.n = range pointOps {
		c.step(dir)
	}
	c.stop()
}

func (c *pointWorker) must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (c *pointWorker) do(what string, f func() error) {
	fmt.Println("do", what)
	c.must(f())
	fmt.Println("ok")
}

func (c *pointWorker) start(dir string) {
	var err error
	c.s, err = openFree(dir, Options{
		SegmentSize: smallestSegment, SettleDelay: 5 * time.Millisecond, TailSoft: 1 << 20, CollectRate: -1, shortestHole: disk.BlockSize,
	})
	c.must(err)
}

func (c *pointWorker) stop() {
	for name, v := range c.open {
		c.must(v.Close())
		delete(c.open, name)
	}
	c.must(c.s.Close())
}

// names finds what earlier children have made.
func (c *pointWorker) names() {
	if len(c.s.Volumes()) == 0 {
		c.create("v")
	}
	list, err := c.s.Snapshots("v")
	c.must(err)
	for _, i := range list {
		c.snaps = append(c.snaps, i.Name)
	}
}

// grow makes the refs log so long that the next opening writes it anew.
func (c *pointWorker) grow() {
	recs := make([]refs.Record, 5000)
	for i := range recs {
		recs[i] = refs.Record{Op: refs.OpVerify, ID: c.s.catalog.refs.Volumes["v"].ID, Time: time.Now()}
	}
	c.s.catalog.logMu.Lock()
	c.s.catalog.log.CompactAt = 1 << 40 // or it would be written anew at once
	c.s.catalog.logMu.Unlock()
	for range 3 {
		c.must(c.s.catalog.append(context.Background(), recs...))
	}
}

func (c *pointWorker) create(name string) {
	c.do("create "+name, func() error {
		_, err := c.s.CreateVolume(context.Background(), name, VolumeOptions{Size: pointBlocks * killedBlock})
		return err
	})
}

func (c *pointWorker) volume(name string) *Volume {
	if c.open[name] == nil {
		v, err := c.s.OpenVolume(name, "test")
		c.must(err)
		c.open[name] = v
	}
	return c.open[name]
}

func (c *pointWorker) step(dir string) {
	switch c.r.IntN(40) {
	case 0:
		name := fmt.Sprintf("s%d-%d", c.seq, c.n)
		c.do("snapshot v "+name, func() error {
			_, err := c.s.CreateSnapshot(context.Background(), "v", name)
			return err
		})
		c.snaps = append(c.snaps, name)
		if c.r.IntN(2) == 0 {
			_, err := c.s.WaitSnapshot(context.Background(), "v", name)
			c.must(err)
		}
	case 1:
		if len(c.snaps) > 2 {
			c.do("unsnapshot v "+c.snaps[0], func() error { return c.s.DeleteSnapshot(context.Background(), "v", c.snaps[0]) })
			c.snaps = c.snaps[1:]
		}
	case 2:
		c.coming()
		_, err := c.s.NewUUID()
		c.must(err)
		_, err = c.s.Check(context.Background(), nil)
		c.must(err)
		c.must(c.s.Reindex())
		if c.r.IntN(2) == 0 {
			c.must(c.s.WaitReindex(context.Background(), nil))
		}
	case 3:
		c.must(c.volume("v").Flush())
	case 4:
		if c.r.IntN(3) == 0 {
			c.must(c.s.Settle(context.Background()))
		}
		if c.r.IntN(3) == 0 {
			_, err := evacuateAll(context.Background(), c.s, sealedSegments(c.s))
			c.must(err)
		}
		if c.r.IntN(3) == 0 {
			_, err := c.s.Collect(context.Background(), CollectOptions{})
			c.must(err)
		}
	case 5:
		if c.r.IntN(4) == 0 {
			c.stop()
			c.start(dir)
		}
	case 6, 7:
		block := c.r.IntN(pointBlocks)
		c.do(fmt.Sprintf("zero v %d", block), func() error { return c.volume("v").Zero(int64(block)*killedBlock, killedBlock) })
	default:
		c.write("v")
	}
}

func (c *pointWorker) write(name string) {
	c.seq++
	block := c.r.IntN(pointBlocks)
	c.do(fmt.Sprintf("write %s %d %d", name, block, c.seq), func() error {
		_, err := c.volume(name).WriteAt(killedData(block, c.seq), int64(block)*killedBlock)
		return err
	})
}

// coming is a volume that comes and goes, with writes that have settled and others that have not.
func (c *pointWorker) coming() {
	name := fmt.Sprint("t", c.seq)
	c.create(name)
	for range 8 {
		c.write(name)
	}
	if c.r.IntN(2) == 0 {
		c.must(c.open[name].Flush())
	}
	grown := c.r.IntN(2) == 0
	if grown {
		c.resize(name, 9*pointBlocks)
		if c.r.IntN(2) == 0 {
			c.back(name)
		}
	}
	c.must(c.volume(name).Close())
	delete(c.open, name)
	if grown {
		c.resize(name, pointBlocks) // settles all
	}
	c.do("delete "+name, func() error { return c.s.DeleteVolume(context.Background(), name) })
}

// resize gives a volume other blocks, all of zeroes, or takes them again.
func (c *pointWorker) resize(name string, blocks int64) {
	c.do("resize "+name, func() error {
		_, err := c.s.ResizeVolume(context.Background(), name, blocks*killedBlock, ResizeOptions{Shrink: true})
		return err
	})
}

// back clones a volume, and rolls it back to a snapshot, over writes that have not settled.
func (c *pointWorker) back(name string) {
	ctx := context.Background()
	c.do("snapshot "+name+" s", func() error {
		_, err := c.s.CreateSnapshot(ctx, name, "s")
		return err
	})
	c.write(name)
	c.do("clone "+name+" c"+name, func() error {
		_, err := c.s.CloneVolume(ctx, name, "", "c"+name)
		return err
	})
	c.write(name)
	c.must(c.open[name].Close())
	delete(c.open, name)
	c.do("rollback "+name+" s", func() error {
		_, err := c.s.RollbackVolume(ctx, name, "s", RollbackOptions{NoSnapshot: true})
		return err
	})
	c.do("resnapshot "+name+" s z", func() error {
		_, err := c.s.RenameSnapshot(ctx, name, "s", "z")
		return err
	})
	c.do("unsnapshot "+name+" z", func() error { return c.s.DeleteSnapshot(ctx, name, "z") })
	c.do("rename c"+name+" r"+name, func() error {
		_, err := c.s.RenameVolume(ctx, "c"+name, "r"+name)
		return err
	})
	c.do("delete r"+name, func() error { return c.s.DeleteVolume(ctx, "r"+name) })
}
