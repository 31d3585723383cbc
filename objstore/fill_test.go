package objstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// gatedIndex takes entries only while its gate is open; until then Put waits.
type gatedIndex struct {
	index.Index
	gate chan struct{}
}

func (g *gatedIndex) Put(entries []index.Entry) error {
	<-g.gate
	return g.Index.Put(entries)
}

// waitIndexed waits until the index has all objects.
func (r *rig) waitIndexed() {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); len(r.s.indexer.unindexed()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("%d segments are not in the index", len(r.s.indexer.unindexed()))
		}
	}
}

// wantIndex wants the index to know all the objects of segments that it is said to have all the
// objects of. marked: only of those that it has a mark of.
func wantIndex(t *testing.T, s *Store, ix index.Index, marked bool) (segments int) {
	t.Helper()
	for _, g := range s.segments.All() {
		if !ix.Done(g.ID) && (marked || !s.index.has(g.ID)) {
			continue
		}
		segments++
		objs, err := g.Objects()
		must(t, err)
		for _, o := range objs {
			p, ok := ix.Get((*[32]byte)(&o.Hash))
			if _, err := s.objects.Validate(segment.At(p.Segment, p.Block), &o.Hash, o.Kind); !ok || err != nil {
				t.Fatalf("segment %08x: %v at block %d: the index says %v, %v: %v", g.ID, o.Kind, o.Block, p, ok, err)
			}
		}
	}
	return segments
}

// A store whose index is lost opens before the index is filled, and without a look into its records
// but for the root. Then all is read, at a cost that does not grow with segments times leaves, and
// written, and settled on demand.
func TestOpeningComesBeforeIndex(t *testing.T) {
	r := many(t)
	ix := &gatedIndex{index.NewMem(), make(chan struct{})}
	r.o.Index = ix
	var c footerReads
	opened := make(chan struct{})
	go func() { r.open(c.hook); close(opened) }()
	select {
	case <-opened:
	case <-time.After(patience):
		close(ix.gate)
		<-opened
		t.Fatal("the store is not open after 20 s while the index takes no entries")
	}
	if ops, _ := c.take(); ops > 3 {
		t.Errorf("%d footers are read to open, want the one with the root, and what the indexer begins with", ops)
	}
	st, err := r.s.Stat()
	must(t, err)
	segs := int64(len(r.s.segments.All()))
	if int64(st.Unindexed) != segs {
		t.Errorf("%d of %d segments are said to be missing in the index", st.Unindexed, segs)
	}
	v := r.volume("a", 0)
	for i := range int64(32) {
		i = i * 13 % 32 // where nothing was found last
		wantRead(t, v, i<<20, randomBytes(uint64(i), 1<<20))
	}
	// Each record once, and then the one that has the leaf's node and the one that has its chunks.
	if ops, _ := c.take(); ops > segs+3*32 {
		t.Errorf("%d reads of footers for 32 leaves, of %d segments", ops, segs)
	}
	r.write(v, randomBytes(50, 8192), 5<<20)
	must(t, v.Flush())
	settled := make(chan error)
	go func() { settled <- r.s.Settle(t.Context()) }()
	time.Sleep(50 * time.Millisecond)
	close(ix.gate)
	must(t, <-settled)
	r.waitIndexed()
	if n := wantIndex(t, r.s, ix.Index, false); int64(n) < segs {
		t.Errorf("the index has %d of %d segments", n, segs)
	}
	if r.s.sketches.Bytes() != 0 {
		t.Errorf("%d bytes of sketches are left", r.s.sketches.Bytes())
	}
	must(t, v.Close())
	must(t, r.s.Close())
	r.open(nil)
	if n := len(r.s.indexer.unindexed()); n > 2 { // what was not sealed
		t.Errorf("the next opening does not know of %d segments that the index has them", n)
	}
}

// Volumes whose roots lie far apart are opened with one pass through the records.
func TestRootsAreFoundTogether(t *testing.T) {
	r := newRig(t, Options{FooterCache: 1, TailSoft: 1 << 40, TailHard: 1 << 40})
	const volumes = 12
	for i := range volumes {
		v := r.volume(string(rune('a'+i)), 5<<20)
		r.write(v, randomBytes(uint64(i), 64<<10), 0)
		must(t, r.s.Settle(t.Context()))
		must(t, v.Close())
		must(t, r.s.Close())
		r.open(nil) // seals the segment of nodes
	}
	must(t, r.s.Close())
	r.o.Index = noIndex{index.NewMem()}
	var c footerReads
	r.open(c.hook)
	ops, _ := c.take()
	withNodes := int64(0)
	for _, g := range r.s.segments.All() {
		if _, nodes := g.Stored(); nodes > 0 {
			withNodes++
		}
	}
	if withNodes < volumes {
		t.Fatalf("the roots of %d volumes lie in %d segments", volumes, withNodes)
	}
	if ops > withNodes+2 {
		t.Errorf("%d reads of footers to open %d volumes with roots in %d segments", ops, volumes, withNodes)
	}
}

// While the index is filled, settling waits, and finds all duplicates then; but not where somebody
// waits for it, or a tail presses.
func TestSettlingWaitsForIndex(t *testing.T) {
	for _, press := range []bool{false, true} {
		r := many(t)
		synctest.Test(t, func(t *testing.T) {
			wait := make(chan struct{})
			var c footerReads
			var opened atomic.Bool
			block := func(op vfs.Op) error {
				_ = c.hook(op)
				if c.ops.Load() > 0 && op.Kind == vfs.OpRead && op.Off >= smallestSegment && strings.HasSuffix(op.Name, ".seg") && opened.Load() {
					<-wait
				}
				return nil
			}
			r.o.Index, r.o.SettleDelay = index.NewMem(), time.Millisecond
			if press {
				r.o.TailSoft = 1
			}
			was := r.s.stored.chunks.Load()
			r.open(block)
			opened.Store(true)
			v := r.volume("b", 8<<20)
			r.write(v, randomBytes(7, 1<<20), 0)
			time.Sleep(time.Minute)
			tail := func() int64 {
				info, err := r.s.VolumeInfo("b")
				must(t, err)
				return info.Tail
			}
			if press {
				if n := tail(); n > 0 {
					t.Errorf("a tail that presses does not settle: %d bytes", n)
				}
			} else if n := tail(); n != 1<<20 {
				t.Errorf("a tail of %d bytes: it has settled without an index", n)
			}
			close(wait)
			time.Sleep(time.Minute)
			if n := tail(); n > 0 {
				t.Errorf("%d bytes have not settled", n)
			}
			if n := r.s.stored.chunks.Load() - was; !press && n > 0 {
				t.Errorf("%d bytes are stored twice", n)
			}
			wantRead(t, v, 0, randomBytes(7, 1<<20))
			must(t, v.Close())
			must(t, r.s.Close())
			r.o.Index = index.NewMem()
		})
		r.open(nil)
	}
}

// faultyIndex takes so many puts.
type faultyIndex struct {
	index.Index
	left atomic.Int64
}

func (f *faultyIndex) Put(entries []index.Entry) error {
	if f.left.Add(-1) < 0 {
		return index.ErrNoSpace
	}
	return f.Index.Put(entries)
}

// An index that was filled in part is not believed to have what it lacks, and the next opening, or
// the next try, goes on.
func TestFillingGoesOn(t *testing.T) {
	for _, retry := range []bool{false, true} {
		r := many(t)
		synctest.Test(t, func(t *testing.T) {
			ix := &faultyIndex{Index: index.NewMem()}
			r.o.Index = ix
			for puts := int64(1); ; puts = puts*3/2 + 1 {
				ix.left.Store(puts)
				r.open(nil)
				time.Sleep(renewTick)
				wantIndex(t, r.s, ix.Index, true)
				left := len(r.s.indexer.unindexed())
				if left > 0 && retry {
					ix.left.Store(1 << 40)
					time.Sleep(2 * renewRetry)
					left = len(r.s.indexer.unindexed())
				}
				v := r.volume("a", 0)
				wantRead(t, v, puts%32<<20, randomBytes(uint64(puts%32), 1<<20))
				must(t, v.Close())
				must(t, r.s.Close())
				if left == 0 {
					break
				}
				if puts > 1<<20 {
					t.Fatal("it is never filled")
				}
			}
			r.open(nil)
			if n := len(r.s.indexer.unindexed()); n > 2 {
				t.Errorf("%d segments have no mark", n)
			}
			must(t, r.s.Close())
		})
		r.open(nil)
	}
}

// What was stored again, because the first copy has rotted, is not hidden by the first copy's
// record, which the indexer comes to later.
func TestFillingHidesNothingNewer(t *testing.T) {
	r := many(t)
	r.open(nil)
	v := r.volume("a", 0)
	seg, off := locationOf(t, v, 7<<20)
	must(t, v.Close())
	must(t, r.s.Close())
	flip(t, r.mem, segment.Name(seg), off+5)
	wait := make(chan struct{})
	var opened atomic.Bool
	r.o.Index = index.NewMem()
	r.open(func(op vfs.Op) error {
		if opened.Load() && op.Kind == vfs.OpRead && op.Off >= smallestSegment && op.Name == segment.Name(seg) {
			<-wait
		}
		return nil
	})
	opened.Store(true)
	b := r.volume("b", 1<<20)
	r.write(b, randomBytes(7, 1<<20)[:4096], 0)
	must(t, r.s.Settle(t.Context()))
	wantRead(t, b, 0, randomBytes(7, 1<<20)[:4096])
	close(wait)
	r.waitIndexed()
	b.forget()
	wantRead(t, b, 0, randomBytes(7, 1<<20)[:4096])
	must(t, b.Close())
}

// On real files: whatever has become of the index, the store opens, has its bytes, and the index is
// complete again.
func TestIndexLostOnDisk(t *testing.T) {
	dir := t.TempDir() + "/store"
	must(t, Init(dir, InitOptions{ChunkSize: 4096}))
	o := Options{SettleDelay: -1, SegmentSize: smallestSegment}
	s := openTest(t, dir, o)
	_, err := s.CreateVolume(t.Context(), "a", VolumeOptions{Size: 16 << 20})
	must(t, err)
	v, err := s.OpenVolume("a", "test")
	must(t, err)
	for i := range int64(8) {
		_, err := v.WriteAt(randomBytes(uint64(i), 1<<20), i<<20)
		must(t, err)
		must(t, s.Settle(t.Context()))
	}
	must(t, v.Close())
	must(t, s.Close())
	each := func(f func(name string) error) func() error {
		return func() error {
			entries, err := os.ReadDir(filepath.Join(dir, IndexDir))
			for _, e := range entries {
				err = errors.Join(err, f(filepath.Join(dir, IndexDir, e.Name())))
			}
			return err
		}
	}
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"deleted", func() error { return os.RemoveAll(filepath.Join(dir, IndexDir)) }},
		{"emptied", each(os.Remove)},
		{"garbage", each(func(name string) error { return os.WriteFile(name, randomBytes(1, 5000), 0o600) })},
		{"truncated", each(func(name string) error { return os.Truncate(name, 10) })},
		{"a directory in the place of a file", func() error {
			name := filepath.Join(dir, IndexDir, "MANIFEST")
			return errors.Join(os.Remove(name), os.Mkdir(name, 0o700))
		}},
		{"untouched", func() error { return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, c.do())
			r := &rig{t: t, s: openTest(t, dir, o)}
			v, err := r.s.OpenVolume("a", "test")
			must(t, err)
			for i := range int64(8) {
				wantRead(t, v, i<<20, randomBytes(uint64(i), 1<<20))
			}
			r.waitIndexed()
			wantIndex(t, r.s, r.s.index.now(), false)
			must(t, v.Close())
			must(t, r.s.Close())
		})
	}
}
