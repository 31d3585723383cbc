package objstore

import (
	"bytes"
	"context"
	"testing"

	"varve/objstore/index"
)

// With an index that has room for next to nothing, all is found in the records of the segments.
func TestBoundedIndexLosesNothing(t *testing.T) {
	r := newRig(t, Options{LeafCache: smallestLeaves})
	must(t, r.s.Close())
	r.o.Index = index.NewBoundedMem(8)
	r.open(nil)
	v := r.volume("a", 16<<20)
	data := randomBytes(1, 2<<20)
	for i := range 4 {
		r.write(v, data[i*512<<10:(i+1)*512<<10], int64(i)*512<<10)
		must(t, r.s.Settle(context.Background()))
	}
	must(t, v.Close())
	must(t, r.s.Close())
	r.o.Index = index.NewBoundedMem(8)
	r.open(nil)
	v = r.volume("a", 0)
	got := make([]byte, len(data))
	_, err := v.ReadAt(got, 0)
	must(t, err)
	if !bytes.Equal(got, data) {
		t.Error("the volume reads something else")
	}
	must(t, v.Close())
}
