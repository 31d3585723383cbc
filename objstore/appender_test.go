package objstore

import (
	"context"
	"errors"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// Slots lie one after the other in one segment, begin at blocks, and go on in the next segment
// where one does not fit; the full one is to be sealed.
func TestAppender(t *testing.T) {
	ctx := t.Context()
	var made []*segment.File
	var none error
	a := &appender{take: func(context.Context) (*segment.File, error) {
		if none != nil {
			return nil, none
		}
		g := &segment.File{ID: uint32(len(made) + 1), Capacity: 4 * disk.BlockSize, Next: disk.BlockSize}
		made = append(made, g)
		return g, nil
	}}
	for i, c := range []struct {
		n       int64
		segment uint32
		block   int64
	}{{100, 1, 1}, {disk.BlockSize, 1, 2}, {2 * disk.BlockSize, 2, 1}, {1, 2, 3}, {1, 3, 1}} {
		g, off, err := a.slot(ctx, c.n)
		must(t, err)
		if g.ID != c.segment || off != c.block*disk.BlockSize {
			t.Errorf("slot %d of %d bytes: segment %d at byte %d, want %d at block %d", i, c.n, g.ID, off, c.segment, c.block)
		}
	}
	for _, want := range made[:2] {
		if g := a.nextFilled(); g != want || !g.Full {
			t.Errorf("filled: %+v, want segment %d", g, want.ID)
		}
	}
	if g := a.nextFilled(); g != nil {
		t.Errorf("segment %d is filled", g.ID)
	}
	none = errors.New("no segment")
	for range 2 { // what can't be taken now may be later
		if _, _, err := a.slot(ctx, 3*disk.BlockSize); !errors.Is(err, none) {
			t.Errorf("without a segment: %v", err)
		}
	}
	none = nil
	g, _, err := a.slot(ctx, disk.BlockSize)
	must(t, err)
	if full := a.nextFilled(); g.ID != 4 || full != made[2] || a.nextFilled() != nil {
		t.Errorf("afterwards: segment %d, filled %+v", g.ID, full)
	}
}

// Chunks that settling copies and the tree above them lie in segments apart, also after the store
// was opened again.
func TestTreeLiesApartFromChunks(t *testing.T) {
	r := newRig(t, Options{})
	for round := range 3 {
		v := r.volume("a", 64<<20)
		for i := range 4 {
			r.write(v, randomBytes(uint64(round*8+i), 512), int64(i)*(8<<20)) // a part of a chunk: it is copied
			must(t, r.s.Settle(t.Context()))
		}
		must(t, v.Close())
		r.end([]string{"closed", "killed", "power cut"}[round])
		r.open(nil)
	}
	chunks, trees := 0, 0
	for _, g := range r.s.segments.All() {
		c, others := g.Stored()
		if c > 0 && others > 0 {
			t.Errorf("segment %08x has %d bytes of chunks and %d of tree nodes and roots", g.ID, c, others)
		}
		chunks, trees = chunks+int(c), trees+int(others)
	}
	if chunks == 0 || trees == 0 {
		t.Errorf("%d bytes of chunks, %d of trees", chunks, trees)
	}
}
