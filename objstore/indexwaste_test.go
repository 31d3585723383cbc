package objstore

import (
	"testing"

	"varve/objstore/index"
)

// longIndex is an index that takes some bytes more than its entries.
type longIndex struct {
	index.Index
	waste int64
}

func (x *longIndex) Bytes() int64 { return x.Index.Bytes() + x.waste }

// A collection has the index rebuilt if most of it is of what was deleted, and else not.
func TestCollectionRebuildsWastefulIndex(t *testing.T) {
	for _, c := range []struct {
		name    string
		waste   int64
		rebuilt bool
	}{{"as long as its entries", 0, false}, {"much longer", 8 << 20, true}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, collectAll(Options{}))
			must(t, r.s.Close())
			r.o.Index = &longIndex{r.o.Index, c.waste}
			next := &testNext{Index: index.NewMem()}
			r.o.nextIndex = func() (nextIndex, error) { return next, nil }
			r.open(nil)
			v := r.volume("a", 64<<20)
			r.write(v, randomBytes(1, 4<<20), 0)
			must(t, r.s.Settle(t.Context()))
			must(t, v.Zero(0, 2<<20))
			must(t, r.s.Settle(t.Context()))
			if _, err := r.s.Collect(t.Context(), CollectOptions{DryRun: true}); err != nil {
				t.Fatal(err)
			}
			if i, _ := r.s.indexer.rebuild.state(); i != nil {
				t.Error("a dry run has the index rebuilt")
			}
			r.collect()
			must(t, r.s.WaitReindex(t.Context(), nil))
			if next.installed != c.rebuilt {
				t.Errorf("rebuilt: %v, want %v", next.installed, c.rebuilt)
			}
			r.collect()
			if i, _ := r.s.indexer.rebuild.state(); i != nil {
				t.Error("the index is rebuilt by each collection")
			}
			wantRead(t, v, 2<<20, randomBytes(1, 4<<20)[2<<20:])
			wantIndex(t, r.s, r.s.index.now(), false)
			must(t, v.Close())
		})
	}
}
