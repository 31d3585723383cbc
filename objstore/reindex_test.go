package objstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"varve/objstore/index"
)

// testNext is a next index that the test holds up, or has fail.
type testNext struct {
	index.Index
	put       func() error
	installed bool
	discarded bool
}

func (n *testNext) Put(entries []index.Entry) error {
	if n.put != nil {
		if err := n.put(); err != nil {
			return err
		}
	}
	return n.Index.Put(entries)
}

func (n *testNext) Install() error { n.installed = true; return nil }

func (n *testNext) Discard() error { n.discarded = true; return nil }

// liar is an index that has no entry that is right, and says that it is complete.
func liar(t *testing.T, s *Store) index.Index {
	t.Helper()
	ix := index.NewMem()
	for _, g := range s.segments.All() {
		objs, err := g.Objects()
		must(t, err)
		for _, o := range objs {
			must(t, ix.Put([]index.Entry{{Hash: o.Hash, Location: index.Location{Segment: g.ID, Block: o.Block + 1}}}))
		}
		must(t, ix.MarkDone(g.ID))
	}
	return ix
}

// The index is rebuilt while the volume is read, written and settled. What is stored meanwhile is
// in the new one, as is all that the old one had lost, so that duplicates are found again and the
// ratio is what it was.
func TestReindexBesideIO(t *testing.T) {
	r := many(t)
	r.open(nil)
	wrong := liar(t, r.s)
	must(t, r.s.Close())
	gate := make(chan struct{})
	entering := make(chan struct{}, 1<<10)
	next := &testNext{Index: index.NewMem(), put: func() error { entering <- struct{}{}; <-gate; return nil }}
	r.o.Index, r.o.nextIndex = wrong, func() (nextIndex, error) { return next, nil }
	r.open(nil)
	before, err := r.s.Stat()
	must(t, err)
	v := r.volume("a", 0)
	must(t, r.s.Reindex())
	<-entering // it is in the middle, and holds up nobody
	if st, err := r.s.Stat(); err != nil || st.Reindex == nil || st.Reindex.Segments == 0 {
		t.Fatalf("%+v, %v", st.Reindex, err)
	}
	for i := range int64(32) {
		wantRead(t, v, i<<20, randomBytes(uint64(i), 1<<20))
	}
	r.write(v, randomBytes(100, 1<<20), 5<<20)
	must(t, v.Flush())
	must(t, r.s.Reindex()) // no second one
	close(gate)
	must(t, r.s.Settle(t.Context()))
	heard := 0
	must(t, r.s.WaitReindex(t.Context(), func(ReindexInfo) { heard++ }))
	if !next.installed || next.discarded || r.s.index.now() != next {
		t.Fatalf("installed %v, discarded %v", next.installed, next.discarded)
	}
	r.write(v, randomBytes(101, 1<<20), 6<<20) // into the new one alone
	must(t, r.s.Settle(t.Context()))
	if n := wantIndex(t, r.s, next.Index, false); n < len(r.s.segments.All()) {
		t.Errorf("the new index has %d of %d segments", n, len(r.s.segments.All()))
	}
	stored := r.s.stored.chunks.Load()
	for i := range int64(32) { // all of it once more
		p := randomBytes(uint64(i), 1<<20)
		switch i {
		case 5, 6:
			p = randomBytes(uint64(95+i), 1<<20)
		}
		r.write(v, p, (i+7)%32<<20)
	}
	must(t, r.s.Settle(t.Context()))
	if n := r.s.stored.chunks.Load() - stored; n > 0 {
		t.Errorf("%d bytes are stored twice", n)
	}
	after, err := r.s.Stat()
	must(t, err)
	if added := int64(2 << 20); after.Stored != before.Stored+added {
		t.Errorf("stored %d bytes, were %d, and %d new ones were written", after.Stored, before.Stored, added)
	}
	if st := after.Reindex; st != nil {
		t.Errorf("after its end: %+v", st)
	}
	must(t, v.Close())
}

// Settling waits for no rebuilding: one that hangs while it enters an object delays none. What was
// settled meanwhile, and what was replaced, is in the new index as it is in the segments.
func TestSettlingBesideReindex(t *testing.T) {
	r := many(t)
	var puts atomic.Int64
	entering, gate := make(chan struct{}), make(chan struct{})
	next := &testNext{Index: index.NewMem(), put: func() error {
		if puts.Add(1) == 1 { // the rebuilding alone
			close(entering)
			<-gate
		}
		return nil
	}}
	r.o.nextIndex = func() (nextIndex, error) { return next, nil }
	r.open(nil)
	r.waitIndexed()
	v := r.volume("a", 0)
	must(t, r.s.Reindex())
	<-entering
	for i := range uint64(8) { // four MiBs that are new, each replaced by another
		r.write(v, randomBytes(200+i, 1<<20), int64(i%4)<<20)
		must(t, v.Flush())
		must(t, r.s.Settle(t.Context()))
	}
	if st, err := r.s.Stat(); err != nil || st.Reindex == nil || next.installed {
		t.Errorf("the rebuilding has ended before all was settled: %+v, %v", st.Reindex, err)
	}
	if n := puts.Load(); n < 9 {
		t.Errorf("%d times something was entered into the next index, by 8 settlings and the rebuilding", n)
	}
	close(gate)
	must(t, r.s.WaitReindex(t.Context(), nil))
	wantIndex(t, r.s, next.Index, false)
	stored := r.s.stored.chunks.Load()
	for i := range uint64(8) {
		r.write(v, randomBytes(200+i, 1<<20), int64(8+i)<<20)
	}
	must(t, r.s.Settle(t.Context()))
	if n := r.s.stored.chunks.Load() - stored; n > 0 {
		t.Errorf("%d bytes are stored twice", n)
	}
	must(t, v.Close())
}

// A rebuilding that fails waits until nothing is being entered into the next index before it closes
// that.
func TestReindexFailsBesideIO(t *testing.T) {
	r := many(t)
	var puts atomic.Int64
	var once sync.Once
	entering, fail := make(chan struct{}), make(chan struct{})
	storing, stored := make(chan struct{}), make(chan struct{})
	next := &testNext{Index: index.NewMem(), put: func() error {
		if puts.Add(1) == 1 { // by the rebuilding
			close(entering)
			<-fail
			return index.ErrNoSpace
		}
		once.Do(func() { close(storing) })
		<-stored
		return nil
	}}
	r.o.nextIndex = func() (nextIndex, error) { return next, nil }
	r.open(nil)
	r.waitIndexed()
	v := r.volume("a", 0)
	must(t, r.s.Reindex())
	<-entering
	r.write(v, randomBytes(100, 1<<20), 5<<20)
	settled := make(chan error, 1)
	go func() { settled <- r.s.Settle(t.Context()) }()
	<-storing
	close(fail)
	brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r.s.WaitReindex(brief, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended while an object was being entered: %v", err)
	}
	close(stored)
	must(t, <-settled)
	if err := r.s.WaitReindex(t.Context(), nil); !errors.Is(err, index.ErrNoSpace) {
		t.Errorf("ended with %v", err)
	}
	if !next.discarded || next.installed {
		t.Errorf("installed %v, discarded %v", next.installed, next.discarded)
	}
	must(t, v.Close())
}

// Whoever found the next index just before it was adopted, and notes a segment there afterwards,
// changes no map that others look at under another lock.
func TestAdoptedIndexHasItsOwnSegments(t *testing.T) {
	x, n := newStoreIndex(index.NewMem()), newStoreIndex(index.NewMem())
	n.entered(1)
	x.next.Store(n)
	x.adopt(n)
	n.entered(2)
	if !x.has(1) || x.has(2) {
		t.Errorf("of the segments that the next index had, has %v; of those noted there since, has %v", x.has(1), x.has(2))
	}
}

// A full disk ends the rebuilding, and the index before is used as it was.
func TestReindexOnFullDisk(t *testing.T) {
	r := many(t)
	next := &testNext{Index: index.NewMem(), put: func() error { return index.ErrNoSpace }}
	r.o.nextIndex = func() (nextIndex, error) { return next, nil }
	r.open(nil)
	r.waitIndexed()
	must(t, r.s.Reindex())
	if err := r.s.WaitReindex(t.Context(), nil); !errors.Is(err, index.ErrNoSpace) {
		t.Errorf("ended with %v", err)
	}
	if !next.discarded || next.installed || r.s.index.now() != r.o.Index {
		t.Errorf("installed %v, discarded %v", next.installed, next.discarded)
	}
	r.o.nextIndex = nil
	r.s.indexer.rebuild.open = func() (nextIndex, error) { return nil, index.ErrNoSpace }
	must(t, r.s.Reindex())
	if err := r.s.WaitReindex(t.Context(), nil); !errors.Is(err, index.ErrNoSpace) {
		t.Errorf("there is no room to begin: %v", err)
	}
	v := r.volume("a", 0)
	stored := r.s.stored.chunks.Load()
	r.write(v, randomBytes(3, 1<<20), 9<<20)
	must(t, r.s.Settle(t.Context()))
	if n := r.s.stored.chunks.Load() - stored; n > 0 {
		t.Errorf("%d bytes are stored twice", n)
	}
	must(t, v.Close())
}

// Quiesce interrupts the rebuilding, and Resume goes on with it.
func TestReindexAcrossQuiesce(t *testing.T) {
	r := many(t)
	gate, entering := make(chan struct{}), make(chan struct{}, 1<<10)
	next := &testNext{Index: index.NewMem(), put: func() error { entering <- struct{}{}; <-gate; return nil }}
	r.o.nextIndex = func() (nextIndex, error) { return next, nil }
	r.open(nil)
	must(t, r.s.Reindex())
	<-entering
	quiesced := make(chan error, 1)
	go func() { quiesced <- r.s.Quiesce() }()
	close(gate)
	must(t, <-quiesced)
	done := make(chan error, 1)
	go func() { done <- r.s.WaitReindex(t.Context(), nil) }()
	select {
	case err := <-done:
		if !next.installed { // else it was faster than Quiesce
			t.Fatalf("it ended while the store was quiesced: %v", err)
		}
		return
	case <-time.After(50 * time.Millisecond):
	}
	r.s.Resume()
	must(t, <-done)
	wantIndex(t, r.s, next.Index, false)
}

// realStore is a store on real files, with the real index.
func realStore(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	must(t, Init(dir, InitOptions{ChunkSize: 4096}))
	withReal(t, dir, func(s *Store) {
		_, err := s.CreateVolume(t.Context(), "a", VolumeOptions{Size: 1 << 30})
		must(t, err)
		fillReal(t, s, 0)
	})
	return dir
}

func withReal(t *testing.T, dir string, f func(*Store)) {
	t.Helper()
	s, err := openFree(dir, Options{SegmentSize: smallestSegment, SettleDelay: -1, enteredFirst: -1})
	must(t, err)
	f(s)
	must(t, s.Close())
}

// fillReal writes 24 MiB, the same each time, from a place on, and returns by how much the store
// grew.
func fillReal(t *testing.T, s *Store, off int64) int64 {
	t.Helper()
	was := s.stored.chunks.Load()
	v, err := s.OpenVolume("a", "test")
	must(t, err)
	for i := range int64(24) {
		_, err := v.WriteAt(randomBytes(uint64(i), 1<<20), off+i<<20)
		must(t, err)
	}
	must(t, s.Settle(t.Context()))
	must(t, v.Close())
	return s.stored.chunks.Load() - was
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	for _, name := range []string{"index", "index.new", "index.old"} {
		_, err := os.Stat(filepath.Join(dir, name))
		there := err == nil
		wanted := false
		for _, w := range want {
			wanted = wanted || w == name
		}
		if there != wanted {
			t.Errorf("%s is there: %v, want %v", name, there, wanted)
		}
	}
}

// On real files: the index is rebuilt, a rebuilding that was interrupted goes on when the store
// opens, and an index that was deleted is made again. Duplicates are found afterwards each time.
func TestReindexOnFiles(t *testing.T) {
	dir := realStore(t)
	withReal(t, dir, func(s *Store) {
		for range 2 {
			must(t, s.Reindex())
			must(t, s.WaitReindex(t.Context(), nil))
			wantFiles(t, dir, "index")
		}
		if n := fillReal(t, s, 32<<20); n > 0 {
			t.Errorf("after rebuilding %d bytes are stored twice", n)
		}
	})
	withReal(t, dir, func(s *Store) {
		n, err := s.openNext() // as a process leaves it that dies just then
		must(t, err)
		must(t, n.Close())
		wantFiles(t, dir, "index", "index.new")
	})
	withReal(t, dir, func(s *Store) {
		must(t, s.WaitReindex(t.Context(), nil))
		wantFiles(t, dir, "index")
		if n := fillReal(t, s, 64<<20); n > 0 {
			t.Errorf("after a rebuilding that was interrupted %d bytes are stored twice", n)
		}
	})
	must(t, os.RemoveAll(filepath.Join(dir, "index")))
	withReal(t, dir, func(s *Store) {
		for end := time.Now().Add(time.Minute); len(s.indexer.unindexed()) > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		}
		if n := fillReal(t, s, 96<<20); n > 0 {
			t.Errorf("after the index was deleted %d bytes are stored twice", n)
		}
	})
	s, err := Open(t.Context(), dir, Options{LookOnly: true})
	must(t, err)
	if err := s.Reindex(); !errors.Is(err, ErrReadOnly) {
		t.Errorf("a store that is only looked at: %v", err)
	}
	must(t, s.Close())
}
