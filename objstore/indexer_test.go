package objstore

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/segment"
)

// breakableIndex is an index that breaks when it is told to.
type breakableIndex struct {
	index.Index
	broken  atomic.Bool
	renewed atomic.Int64
	renew   func() (index.Index, error)
}

func (b *breakableIndex) Get(h *[32]byte) (index.Location, bool) {
	if b.broken.Load() {
		return index.Location{}, false
	}
	return b.Index.Get(h)
}

func (b *breakableIndex) Put(entries []index.Entry) error {
	if b.broken.Load() {
		return index.ErrNoSpace
	}
	return b.Index.Put(entries)
}

func (b *breakableIndex) Broken() bool { return b.broken.Load() }

func (b *breakableIndex) Renew() (index.Index, error) {
	b.renewed.Add(1)
	return b.renew()
}

// An index that breaks is made anew beside the I/O: while that takes its time, the volume is read,
// written and settled; then duplicates are found again, and leaves without a look into the records.
func TestBrokenIndexIsReplaced(t *testing.T) {
	r := many(t)
	synctest.Test(t, func(t *testing.T) {
		var c footerReads
		wait := make(chan struct{})
		tries := 0
		ix := &breakableIndex{Index: r.o.Index}
		ix.renew = func() (index.Index, error) {
			if tries++; tries == 1 {
				return nil, index.ErrNoSpace
			}
			<-wait
			return index.NewMem(), nil
		}
		r.o.Index = ix
		r.open(c.hook)
		v := r.volume("a", 0)
		ix.broken.Store(true)
		time.Sleep(renewRetry + 3*renewTick)
		if n := ix.renewed.Load(); n != 2 {
			t.Fatalf("asked %d times for a new index, want 2: one in vain, and one that takes its time", n)
		}
		for i := range int64(32) {
			wantRead(t, v, i<<20, randomBytes(uint64(i), 1<<20))
		}
		r.write(v, randomBytes(100, 1<<20), 0)
		must(t, r.s.Settle(t.Context()))
		close(wait)
		time.Sleep(10 * time.Minute)
		v.forget()
		r.s.footers = segment.NewFooterCache(1 << 30)
		r.s.objects = r.s.newObjects() // with empty caches
		r.s.indexer.objects, r.s.leaves.objects = r.s.objects, r.s.objects
		c.take()
		for i := range int64(32) {
			must(t, v.Load(t.Context(), i<<20, 4096))
		}
		if ops, _ := c.take(); ops > int64(len(r.s.segments.All())) {
			t.Errorf("%d reads of footers for 32 leaves: the index does not know them", ops)
		}
		was := r.s.stored.chunks.Load()
		r.write(v, randomBytes(7, 1<<20), 9<<20)
		r.write(v, randomBytes(100, 1<<20), 10<<20)
		must(t, r.s.Settle(t.Context()))
		if n := r.s.stored.chunks.Load() - was; n > 0 {
			t.Errorf("%d bytes are stored twice", n)
		}
		must(t, v.Close())
		must(t, r.s.Close())
		r.o.Index = index.NewMem()
	})
	r.open(nil)
	v := r.volume("a", 0)
	wantRead(t, v, 9<<20, randomBytes(7, 1<<20))
	must(t, v.Close())
}

// Filling stops at the end of the store, and is not begun for an index that works.
func TestIndexIsReplacedOnce(t *testing.T) {
	r := many(t)
	synctest.Test(t, func(t *testing.T) {
		second := &breakableIndex{Index: index.NewMem(), renew: func() (index.Index, error) { return nil, errors.New("twice") }}
		ix := &breakableIndex{Index: r.o.Index, renew: func() (index.Index, error) { return second, nil }}
		r.o.Index = ix
		r.open(nil)
		time.Sleep(time.Hour)
		if ix.renewed.Load() > 0 {
			t.Error("an index that works was made anew")
		}
		ix.broken.Store(true)
		time.Sleep(time.Hour)
		second.broken.Store(true)
		time.Sleep(time.Hour)
		if ix.renewed.Load() != 1 || second.renewed.Load() > 0 {
			t.Errorf("made anew %d times, and %d times more", ix.renewed.Load(), second.renewed.Load())
		}
		v := r.volume("a", 0)
		wantRead(t, v, 0, randomBytes(0, 1<<20))
		must(t, v.Close())
		must(t, r.s.Close())
		r.o.Index = index.NewMem()
	})
	r.open(nil)
}
