package objstore

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"varve/objstore/index"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// footerReads counts what is read of segments' footers, beside their trailers, of 64 bytes.
type footerReads struct{ ops, bytes atomic.Int64 }

func (c *footerReads) hook(op vfs.Op) error {
	if op.Kind == vfs.OpRead && strings.HasSuffix(op.Name, ".seg") && op.Off >= smallestSegment && op.Len > 64 {
		c.ops.Add(1)
		c.bytes.Add(op.Len)
	}
	return nil
}

func (c *footerReads) take() (ops, bytes int64) { return c.ops.Swap(0), c.bytes.Swap(0) }

// many is a closed store of a volume of 32 leaves in sealed segments, each leaf written and settled
// by itself.
func many(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, Options{FooterCache: 1, TailSoft: 1 << 40, TailHard: 1 << 40})
	v := r.volume("a", 32<<20)
	for i := range 32 {
		r.write(v, randomBytes(uint64(i), 1<<20), int64(i)<<20)
		must(t, r.s.Settle(t.Context()))
	}
	must(t, v.Close())
	must(t, r.s.Close())
	r.open(nil) // seals
	must(t, r.s.Close())
	return r
}

// forget drops the volume's leaves from memory.
func (v *Volume) forget() {
	v.mu.Lock()
	v.base.drop()
	v.mu.Unlock()
}

// A lost segment among many: a leaf that lay in it costs one read of each record, and another time
// nothing, whether a reader or the settler comes for it; until its chunks are written again.
func TestLostSegmentCostsOnePass(t *testing.T) {
	r := many(t)
	r.open(nil)
	v := r.volume("a", 0)
	seg, _ := locationOf(t, v, 0)
	must(t, v.Close())
	must(t, r.s.Close())
	must(t, r.mem.Remove(segment.Name(seg)))
	var c footerReads
	r.open(c.hook)
	v = r.volume("a", 0)
	must(t, v.Load(t.Context(), 20<<20, 4096)) // the nodes above
	segs := int64(len(r.s.segments.All()))
	c.take()
	for range 3 {
		v.forget()
		must(t, v.Load(t.Context(), 0, 4096))
		if _, err := v.ReadAt(make([]byte, 4096), 0); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("read of a chunk of a lost segment: %v", err)
		}
	}
	// One for each record, and for the footers that the cache does not keep: the check of what the
	// index says, chunk by chunk, is of the one that it keeps.
	if ops, bytes := c.take(); ops > 2*segs || bytes > 2*segs*(60<<10) {
		t.Errorf("a lost leaf, three times: %d reads, %d KiB of footers, of %d segments", ops, bytes>>10, segs)
	}
	r.write(v, randomBytes(99, 512), 4096) // a part of a chunk
	if err := r.s.Settle(t.Context()); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("settling over a lost chunk: %v", err)
	}
	if ops, _ := c.take(); ops > 2*segs {
		t.Errorf("settling over a lost leaf: %d reads of footers, of %d segments", ops, segs)
	}
	other := r.volume("b", 1<<20)
	r.write(other, randomBytes(0, 1<<20), 0)
	if err := r.s.Settle(t.Context()); err != nil && !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	wantRead(t, v, 8192, randomBytes(0, 1<<20)[8192:])
}

// noIndex is an index that knows nothing, and takes nothing.
type noIndex struct{ index.Index }

func (noIndex) Get(*[32]byte) (index.Location, bool) { return index.Location{}, false }
func (noIndex) Put([]index.Entry) error              { return index.ErrNoSpace }

// Without an index, what was written together is found in one place: a leaf costs a few records,
// not all of them.
func TestLeafWithoutIndex(t *testing.T) {
	r := many(t)
	var c footerReads
	r.o.Index = noIndex{r.o.Index}
	r.open(c.hook)
	v := r.volume("a", 0)
	must(t, v.Load(t.Context(), 0, 4096))
	segs := int64(len(r.s.segments.All()))
	if segs < 8 {
		t.Fatalf("%d segments", segs)
	}
	c.take()
	for i := range int64(32) {
		wantRead(t, v, i<<20, randomBytes(uint64(i), 1<<20))
	}
	if ops, _ := c.take(); ops > 4*32 {
		t.Errorf("32 leaves: %d reads of footers, of %d segments, want at most 4 a leaf: its node's, and its chunks'", ops, segs)
	}
}
