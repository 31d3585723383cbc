package objstore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/internal/segment"
)

// A chunk that is lost is an error for those who read it, not for its neighbours, and writing over
// it repairs it.
func TestLostChunk(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	for i := range 8 {
		r.write(v, randomBytes(uint64(i+1), 4096), int64(i)*4096)
	}
	must(t, r.s.Settle(ctx))
	must(t, v.Close())
	must(t, r.s.Close())
	// The record of chunk 3 goes.
	lost := merkle.Sum(merkle.KindChunk, randomBytes(4, 4096))
	names, err := r.mem.List(segment.Dir)
	must(t, err)
	for _, n := range names {
		f, err := r.mem.Open(segment.Dir + "/" + n)
		must(t, err)
		b := fileBytes(t, f)
		at := bytes.Index(b, lost[:])
		if at < 0 || !strings.HasSuffix(n, ".dir") {
			continue
		}
		// The directory is made anew with another hash in its place.
		must(t, f.Close())
		id, _, _ := segment.ParseName(n)
		var payloads [][]byte
		l, err := record.Open(t.Context(), r.mem, []string{segment.ObjectLogName(id)}, segment.ObjectLogID(r.s.sb.ID, id), false, func(p []byte) error {
			p = bytes.Clone(p)
			if at := bytes.Index(p, lost[:]); at >= 0 {
				p[at] ^= 1
			}
			payloads = append(payloads, p)
			return nil
		})
		must(t, err)
		must(t, l.Close())
		must(t, r.mem.Remove(segment.ObjectLogName(id)))
		l, err = record.Create(r.mem, segment.ObjectLogName(id), segment.ObjectLogID(r.s.sb.ID, id))
		must(t, err)
		for _, p := range payloads {
			must(t, l.Append(p))
		}
		must(t, l.Close())
	}
	r.o.Index = index.NewMem()
	r.open(nil)
	v = r.volume("a", 0)
	got := make([]byte, 4096)
	if _, err := v.ReadAt(got, 3*4096); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("read of a lost chunk: %v", err)
	}
	wantRead(t, v, 4*4096, randomBytes(5, 4096))
	r.write(v, randomBytes(20, 512), 5*4096)
	must(t, r.s.Settle(ctx))
	wantRead(t, v, 4*4096, randomBytes(5, 4096))
	if _, err := v.ReadAt(got, 3*4096); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("read of a lost chunk after a neighbour was written: %v", err)
	}
	r.write(v, randomBytes(21, 4096), 3*4096)
	must(t, r.s.Settle(ctx))
	wantRead(t, v, 3*4096, randomBytes(21, 4096))
}

// What a damaged segment has is found by its content, also if that begins with a block of zeroes,
// as the second chunk does here, and the leaf of the tree.
func TestSalvageBehindZeroes(t *testing.T) {
	w := newRelogWorld(t)
	v := w.volume("a", 64<<20)
	data := randomBytes(9, 3*relogChunk)
	clear(data[relogChunk : relogChunk+disk.BlockSize])
	const at = 200 * relogChunk
	w.write(v, data, at)
	must(t, w.s.Settle(t.Context()))
	must(t, v.Close())
	must(t, w.s.Close())
	mem := w.mem.Kill()
	names, err := mem.List(segment.Dir)
	must(t, err)
	for _, n := range names {
		if strings.HasSuffix(n, ".dir") {
			flip(t, mem, segment.Dir+"/"+n, record.HeaderSize+20)
		}
	}
	must(t, w.reopened(mem, "boot"))
	wantRead(t, w.volume("a", 0), at, data)
}
