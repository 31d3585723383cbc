package objstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/mark"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// collectAll are the options of a store in which every dead object is worth its hole.
func collectAll(o Options) Options {
	o.CollectRate, o.shortestHole = -1, disk.BlockSize
	return o
}

// reachable returns the hashes of all objects below the roots of a store.
func reachable(t testing.TB, s *Store) map[merkle.Hash]bool {
	t.Helper()
	alive := map[merkle.Hash]bool{}
	roots, err := s.collector.roots(context.Background())
	must(t, err)
	var walk func(h merkle.Hash, level int)
	walk = func(h merkle.Hash, level int) {
		if h.IsZero() || alive[h] {
			return
		}
		alive[h] = true
		if level == 0 {
			return
		}
		n, err := s.objects.FreshNode(context.Background(), h, level)
		must(t, err)
		for _, c := range n {
			walk(c, level-1)
		}
	}
	for _, r := range roots {
		root, err := s.objects.Root(context.Background(), r.id, r.size)
		must(t, err)
		alive[r.id] = true
		walk(root.Top, root.Depth)
	}
	return alive
}

// deadIn returns how many bytes of objects that are not alive the sealed segments list, and what
// those of the other segments have.
func deadIn(t testing.TB, s *Store, alive map[merkle.Hash]bool) (sealed, open int64) {
	t.Helper()
	for _, g := range s.segments.All() {
		objs, err := g.Objects()
		must(t, err)
		for _, o := range objs {
			switch n := disk.RoundUp(int64(o.Length), disk.BlockSize); {
			case alive[o.Hash]:
			case g.Sealed():
				sealed += n
			default:
				open += n
			}
		}
	}
	return sealed, open
}

// usedBy adds up what the segments occupy on disk.
func (r *rig) usedBy() int64 {
	r.t.Helper()
	var sum int64
	for _, g := range r.s.segments.All() {
		n, err := r.mem.Used(segment.Name(g.ID))
		must(r.t, err)
		sum += n
	}
	return sum
}

func (r *rig) collect() CollectReport {
	r.t.Helper()
	report, err := r.s.Collect(r.t.Context(), CollectOptions{})
	must(r.t, err)
	return report
}

// What a deleted snapshot alone has referred to is given back; all else is there, also after the
// store was opened again.
func TestCollect(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	before := int64(0)
	for round := range 4 {
		for i := range int64(6) {
			r.write(v, randomBytes(uint64(round*100+int(i)+1), 1<<20), i<<20)
		}
		must(t, v.Flush())
		_, err := r.s.CreateSnapshot(t.Context(), "a", fmt.Sprint("s", round))
		must(t, err)
		must(t, r.s.Settle(t.Context()))
		if round == 0 {
			before = r.usedBy()
		}
	}
	all := r.usedBy()
	report := r.collect()
	if report.Dead > 20 { // what settling has left between snapshots is a root or a node
		t.Errorf("nothing was deleted, and %d objects were collected: %+v", report.Dead, report)
	}
	for round := range 3 {
		must(t, r.s.DeleteSnapshot(t.Context(), "a", fmt.Sprint("s", round)))
	}
	dry, err := r.s.Collect(t.Context(), CollectOptions{DryRun: true})
	must(t, err)
	if got := r.usedBy(); got != all {
		t.Errorf("a dry run has changed what is used from %d to %d", all, got)
	}
	report = r.collect()
	t.Logf("used %d, after one round %d; %+v", all, before, report)
	if report.Freed < dry.Freed*9/10 || report.Freed > dry.Freed*11/10 {
		t.Errorf("a dry run has said %d bytes, and %d were freed", dry.Freed, report.Freed)
	}
	if got := r.usedBy(); got > before*11/10 {
		t.Errorf("%d bytes are used, and %d were before what is deleted was written", got, before)
	}
	if st := r.s.CollectState(); st.Phase != CollectIdle || st.Last == nil || st.Last.Freed != report.Freed {
		t.Errorf("state %+v after %+v", st, report)
	}
	r.checkCollected(v, 3)
	for _, how := range []string{"closed", "killed", "power cut"} {
		must(t, v.Close())
		must(t, v.Flush())
		r.end(how)
		r.open(nil)
		r.undamaged(how)
		v = r.volume("a", 64<<20)
		r.checkCollected(v, 3)
	}
}

// checkCollected compares what a round has written, and has the store checked.
func (r *rig) checkCollected(v *Volume, round int) {
	r.t.Helper()
	for i := range int64(6) {
		r.holds(v, randomBytes(uint64(round*100+int(i)+1), 1<<20), i<<20)
	}
	report, err := r.s.Check(r.t.Context(), nil)
	must(r.t, err)
	if len(report.Damage) > 0 {
		r.t.Errorf("check finds %+v", report.Damage)
	}
}

func (r *rig) holds(im Image, want []byte, off int64) {
	r.t.Helper()
	got := make([]byte, len(want))
	_, err := im.ReadAt(got, off)
	must(r.t, err)
	if string(got) != string(want) {
		r.t.Errorf("%d bytes at %d are not those that were written", len(want), off)
	}
}

// While a volume is refused, and when a node can't be read, nothing is freed.
func TestCollectFreesNothingUnsure(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	for round := range 2 {
		for i := range int64(6) {
			r.write(v, randomBytes(uint64(round*100+int(i)+1), 1<<20), i<<20)
		}
		must(t, r.s.Settle(t.Context()))
	}
	r.s.hold.Store(true)
	if _, err := r.s.Collect(t.Context(), CollectOptions{}); !errors.Is(err, errHeldBack) {
		t.Errorf("a volume is refused: %v", err)
	}
	r.s.hold.Store(false)
	root := v.base.root
	top, err := r.s.objects.Node(t.Context(), root.Top, root.Depth)
	must(t, err)
	loc, _, err := r.s.objects.Locate(t.Context(), &top[0], merkle.NodeKind(root.Depth-1))
	must(t, err)
	flip(t, r.mem, segment.Name(loc.Segment()), loc.Offset()+10)
	must(t, v.Close())
	must(t, r.reopened(r.mem.Kill(), "boot"))
	used := r.usedBy()
	if _, err := r.s.Collect(t.Context(), CollectOptions{}); !disk.Damaged(err) {
		t.Errorf("a node can't be read: %v", err)
	}
	if got := r.usedBy(); got > used {
		t.Errorf("%d bytes were used, now %d", used, got)
	}
	if alive, _ := deadIn(t, r.s, map[merkle.Hash]bool{}); alive < 12<<20 {
		t.Errorf("%d bytes of objects are left of 12 MiB", alive)
	}
}

// What is being read, and what is open, stays until it is closed.
func TestCollectLeavesWhatIsOpen(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	old := randomBytes(1, 8<<20)
	r.write(v, old, 0)
	_, err := r.s.CreateSnapshot(t.Context(), "a", "s")
	must(t, err)
	must(t, r.s.Settle(t.Context()))
	w, err := r.s.OpenSnapshot("a", "s")
	must(t, err)
	must(t, r.s.DeleteSnapshot(t.Context(), "a", "s"))
	var p Plan
	must(t, planLoaded(t.Context(), v, 0, 1<<20, &p)) // of a base that is about to go
	r.write(v, randomBytes(2, 8<<20), 0)
	must(t, r.s.settler.waitSettled(t.Context(), v.volume, mustFreeze(t, v)))
	collected := make(chan error, 1)
	go func() {
		_, err := r.s.Collect(context.Background(), CollectOptions{})
		collected <- err
	}()
	select {
	case err := <-collected:
		t.Errorf("a plan is held, and a collection has not waited for it: %v", err)
		collected <- nil
	case <-time.After(500 * time.Millisecond):
	}
	got := make([]byte, 1<<20)
	must(t, readPieces(&p, got))
	if string(got) != string(old[:1<<20]) {
		t.Error("a held plan reads other bytes")
	}
	v.Release(&p)
	must(t, <-collected)
	must(t, r.s.Settle(t.Context()))
	r.collect()
	r.holds(w, old, 0)
	must(t, w.Close())
	if report := r.collect(); report.Freed < 7<<20 {
		t.Errorf("a view was closed, and %d bytes of 8 MiB were freed", report.Freed)
	}
	r.holds(v, randomBytes(2, 8<<20), 0)
}

func mustFreeze(t testing.TB, v *Volume) uint64 {
	t.Helper()
	gen, err := v.freeze()
	must(t, err)
	return gen
}

// In quiet, what is stored can be reached: nothing that is dead is left in sealed segments but what
// passes the filter by mistake, which is other objects in the next cycle.
func TestCollectIsExact(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	rng := newRand(5)
	for round := range 12 {
		for range 30 {
			r.write(v, randomBytes(rng.Uint64(), 4096<<rng.IntN(4)), rng.Int64N(2000)*4096)
		}
		must(t, r.s.Settle(t.Context()))
		if round%5 == 4 {
			r.write(v, randomBytes(rng.Uint64(), 4<<20), 16<<20)
		}
	}
	for range 4 {
		r.collect()
	}
	alive := reachable(t, r.s)
	sealed, open := deadIn(t, r.s, alive)
	t.Logf("%d bytes are dead in sealed segments, %d in open ones", sealed, open)
	if most := int64(len(r.s.segments.All())) * 8192; sealed > most {
		t.Errorf("%d dead bytes in sealed segments, want at most the last object of each: %d", sealed, most)
	}
}

// Settling adds a hash to the filter before it asks whether the store has the object: chunk, node
// and root.
func TestSettlingKeepsBeforeItLooks(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	must(t, r.s.Close())
	probe := &keepProbe{Index: r.o.Index}
	r.o.Index = probe
	r.open(nil)
	probe.c.Store(r.s.collector)
	r.s.collector.marks.Store(mark.NewFilter(mark.NewSeed(), 1<<16, 0, 1))
	v := r.volume("a", 8<<20)
	r.write(v, randomBytes(1, 1<<20), 0)
	must(t, r.s.Settle(t.Context()))
	if asked, early := probe.asked.Load(), probe.early.Load(); early > 0 || asked < 256 {
		t.Errorf("of %d look-ups, %d came before the hash was kept", asked, early)
	}
	r.s.collector.marks.Store(nil)
}

// keepProbe is an index that counts look-ups of hashes that are not in the filter.
type keepProbe struct {
	index.Index
	c            atomic.Pointer[collector]
	asked, early atomic.Int64
}

func (p *keepProbe) Get(h *[32]byte) (index.Location, bool) {
	if c := p.c.Load(); c != nil {
		if f := c.marks.Load(); f != nil {
			p.asked.Add(1)
			if !f.Has((*merkle.Hash)(h)) {
				p.early.Add(1)
			}
		}
	}
	return p.Index.Get(h)
}

// What a sweep has found dead in a segment, and what comes to life before the list is written, or
// while it is, is there afterwards: kept, or stored anew.
func TestCollectBesideRevival(t *testing.T) {
	for _, at := range []string{"surveyed", "condemned"} {
		t.Run(at, func(t *testing.T) {
			r := newRig(t, collectAll(Options{}))
			must(t, r.s.Close())
			var armed atomic.Bool
			var revive func(wait bool)
			r.open(func(op vfs.Op) error {
				if !armed.Load() {
					return nil // r.s may not be the store that is open
				}
				draft := op.Kind == vfs.OpCreate && strings.HasSuffix(op.Name, ".dir.new")
				survey := op.Kind == vfs.OpUsed && strings.HasSuffix(op.Name, ".seg") && r.s.CollectState().Phase == CollectSweeping
				if (at == "surveyed" && survey || at == "condemned" && draft) && armed.CompareAndSwap(true, false) {
					revive(survey)
				}
				return nil
			})
			v := r.volume("a", 64<<20)
			old := randomBytes(7, 6<<20)
			for off := int64(0); off < 6<<20; off += 1 << 20 {
				r.write(v, old[off:off+1<<20], off)
			}
			must(t, r.s.Settle(t.Context()))
			must(t, v.Zero(0, 6<<20))
			must(t, r.s.Settle(t.Context()))
			settled := make(chan error, 1)
			revive = func(wait bool) {
				end := make(chan struct{})
				go func() { // the collector's goroutine holds locks
					var err error
					for off := int64(0); off < 6<<20 && err == nil; off += 1 << 20 {
						_, err = v.WriteAt(old[off:off+1<<20], 16<<20+off)
					}
					if err == nil {
						err = r.s.Settle(context.Background())
					}
					settled <- err
					close(end)
				}()
				if wait {
					<-end
					return
				}
				select { // its publishing may wait for the list that is being written
				case <-end:
				case <-time.After(200 * time.Millisecond):
				}
			}
			armed.Store(true)
			r.collect()
			if armed.Load() {
				t.Fatal("nothing was swept")
			}
			must(t, <-settled)
			r.holds(v, old, 16<<20)
			r.checkCollectedObjects()
			must(t, v.Close())
			r.end("power cut")
			r.open(nil)
			r.undamaged("power cut")
			v = r.volume("a", 64<<20)
			r.holds(v, old, 16<<20)
			r.collect()
			r.holds(v, old, 16<<20)
			r.checkCollectedObjects()
		})
	}
}

// checkCollectedObjects has everything read, past all caches.
func (r *rig) checkCollectedObjects() {
	r.t.Helper()
	report, err := r.s.Check(r.t.Context(), nil)
	must(r.t, err)
	if len(report.Damage) > 0 {
		r.t.Errorf("check finds %+v", report.Damage)
	}
}

// A snapshot that is being made of a settled state, while the volume settles another one, keeps its
// objects until it has its name.
func TestCollectKeepsUnnamed(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	old := randomBytes(1, 4<<20)
	r.write(v, old, 0)
	must(t, r.s.Settle(t.Context()))
	n := &naming{}
	_, err := v.freezeFor(n)
	must(t, err)
	r.write(v, randomBytes(2, 4<<20), 0)
	must(t, r.s.Settle(t.Context()))
	r.collect()
	_, err = r.s.catalog.name(t.Context(), v.volume, "s", n, time.Now(), time.Time{})
	must(t, err)
	v.unlist(n)
	w, err := r.s.OpenSnapshot("a", "s")
	must(t, err)
	r.holds(w, old, 0)
	must(t, w.Close())
}

// After step 3 of a segment's shortening nobody believes the old footer, also not where the object
// log has become unreadable: it would name what was punched.
func TestFooterGoesBeforeHoles(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	must(t, r.s.Close())
	var atPunch []*vfs.Mem // after a kill, and on disks that a power cut can leave
	var seg string
	var armed atomic.Bool
	r.open(func(op vfs.Op) error {
		if op.Kind == vfs.OpPunch && armed.CompareAndSwap(true, false) {
			atPunch, seg = append(atPunch, r.mem.Kill()), op.Name
			for disk := range uint64(8) {
				atPunch = append(atPunch, r.mem.PowerCut(newRand(disk)))
			}
		}
		return nil
	})
	v := r.volume("a", 64<<20)
	for i := range int64(6) {
		r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
	}
	must(t, r.s.Settle(t.Context()))
	for i := range int64(6) {
		r.write(v, randomBytes(uint64(i+100), 512<<10), i<<20)
	}
	must(t, r.s.Settle(t.Context()))
	armed.Store(true)
	_, err := r.s.Collect(t.Context(), CollectOptions{})
	if atPunch == nil {
		t.Fatalf("nothing was punched: %v", err)
	}
	for i, mem := range atPunch {
		f, err := mem.Open(seg)
		must(t, err)
		size, err := f.Size()
		must(t, err)
		b := make([]byte, segment.HeaderSize)
		_, err = f.ReadAt(b, 0)
		must(t, err)
		capacity, footer := int64(le.Uint64(b[32:])), int64(le.Uint64(b[40:]))
		if size != capacity || footer != 0 {
			t.Errorf("disk %d: %s has %d bytes, a capacity of %d, and says that its footer has %d bytes, when the first hole is punched",
				i, seg, size, capacity, footer)
		}
		must(t, f.Close())
	}
}

// A dry run looks at open segments, too, and says of how many it would free something.
func TestDryRunCountsOpenSegments(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	for round := range uint64(2) {
		r.write(v, randomBytes(round+1, 1<<20), 0)
		must(t, r.s.Settle(t.Context()))
	}
	dry, err := r.s.Collect(t.Context(), CollectOptions{DryRun: true})
	must(t, err)
	if dry.Swept == 0 || dry.Swept > dry.Segments {
		t.Errorf("objects would be taken out of %d of %d segments", dry.Swept, dry.Segments)
	}
}

// What holds collections back is named, all of it, and once that is gone they go on.
func TestCollectNamesWhatIsLost(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v, whole := r.volume("a", 64<<20), r.volume("whole", 1<<20)
	r.write(v, randomBytes(1, 4<<20), 0)
	r.write(whole, randomBytes(2, 1<<20), 0)
	r.snapshot("a", "s")
	r.write(v, randomBytes(3, 1<<20), 32<<20) // other roots, the same leaf
	must(t, r.s.Settle(t.Context()))
	r.snapshot("a", "later")
	root := v.base.root
	top, err := r.s.objects.Node(t.Context(), root.Top, root.Depth)
	must(t, err)
	loc, _, err := r.s.objects.Locate(t.Context(), &top[0], merkle.NodeKind(root.Depth-1))
	must(t, err)
	flip(t, r.mem, segment.Name(loc.Segment()), loc.Offset()+10)
	must(t, v.Close())
	must(t, whole.Close())
	must(t, r.reopened(r.mem.Kill(), "boot"))
	_, err = r.s.Collect(t.Context(), CollectOptions{})
	if err == nil || !strings.Contains(err.Error(), "lost of a, a@s, a@later: ") || !strings.Contains(r.s.CollectState().Error, "a@s, a@later") {
		t.Fatalf("of a and its snapshots a node is lost: %v", err)
	}
	must(t, r.s.DeleteSnapshot(t.Context(), "a", "s"))
	must(t, r.s.DeleteSnapshot(t.Context(), "a", "later"))
	if _, err = r.s.Collect(t.Context(), CollectOptions{}); err == nil || !strings.Contains(err.Error(), "lost of a: ") {
		t.Fatalf("of a a node is lost: %v", err)
	}
	v = r.volume("a", 0)
	must(t, v.Zero(0, 4<<20))
	must(t, r.s.Settle(t.Context()))
	if report := r.collect(); report.Freed < 3<<20 {
		t.Errorf("what was lost is discarded: %+v", report)
	}
	must(t, v.Close())
}
