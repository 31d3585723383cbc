package merkle

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

// forest builds trees in memory, and reads their nodes.
type forest struct {
	nodes map[Hash]*Node
	level map[Hash]int
	reads int
}

func newForest() *forest { return &forest{nodes: map[Hash]*Node{}, level: map[Hash]int{}} }

// plant returns the root over an image of size bytes whose chunks have the content that is named by
// a number; 0 is a chunk of zeroes. A map has what is not zero.
func (f *forest) plant(size int64, chunkSize int, chunks map[int64]byte) Root {
	r := EmptyRoot(size, chunkSize)
	level := map[int64]Hash{}
	for i, c := range chunks {
		if c != 0 {
			level[i] = hashOf(c)
		}
	}
	for l := 1; l <= r.Depth; l++ {
		nodes := map[int64]*Node{}
		for i, h := range level {
			if nodes[i/FanOut] == nil {
				nodes[i/FanOut] = new(Node)
			}
			nodes[i/FanOut][i%FanOut] = h
		}
		level = map[int64]Hash{}
		for i, n := range nodes {
			h := Sum(NodeKind(l), n.Encode())
			f.nodes[h], f.level[h], level[i] = n, l, h
		}
	}
	r.Top = level[0]
	return r
}

func (f *forest) read(_ context.Context, h Hash, level int) (*Node, error) {
	f.reads++
	if f.nodes[h] == nil || f.level[h] != level {
		return nil, errors.New("no such node of the level")
	}
	return f.nodes[h], nil
}

// diffChunks is Diff by comparing chunk by chunk.
func diffChunks(from, to map[int64]byte, r Root) []Change {
	var out []Change
	size := int64(r.ChunkSize)
	for i := int64(0); i*size < r.Size; i++ {
		if from[i] == to[i] {
			continue
		}
		c := Change{i * size, min(size, r.Size-i*size), to[i] == 0}
		if n := len(out) - 1; n >= 0 && out[n].Off+out[n].Len == c.Off && out[n].Zero == c.Zero {
			out[n].Len += c.Len
			continue
		}
		out = append(out, c)
	}
	return out
}

func TestDiff(t *testing.T) {
	const chunk = 4096
	rng := rand.New(rand.NewPCG(1, 1))
	sizes := []int64{512, chunk, 256*chunk - 512, 256 * chunk, 256*chunk + 512, 700 * chunk, 66_000 * chunk}
	for round := range 300 {
		f := newForest()
		from, to := map[int64]byte{}, map[int64]byte{}
		sizeA, sizeB := sizes[rng.IntN(len(sizes))], sizes[rng.IntN(len(sizes))]
		near := rng.Int64N(66_000)
		for range rng.IntN(40) { // clusters, so that ranges grow and subtrees are shared
			i := (near + rng.Int64N(12)) % 66_000
			if rng.IntN(8) == 0 {
				near = rng.Int64N(66_000)
			}
			c := byte(rng.IntN(3))
			from[i], to[i] = c, c
			if rng.IntN(2) == 0 {
				to[i] = byte(rng.IntN(3))
			}
		}
		for i := range from { // nothing lies behind the end
			if i*chunk >= sizeA {
				delete(from, i)
			}
		}
		for i := range to {
			if i*chunk >= sizeB {
				delete(to, i)
			}
		}
		a, b := f.plant(sizeA, chunk, from), f.plant(sizeB, chunk, to)
		var got []Change
		must(t, Diff(t.Context(), &a, &b, f.read, func(c Change) error { got = append(got, c); return nil }))
		want := diffChunks(from, to, b)
		if len(got) != len(want) {
			t.Fatalf("round %d, %d to %d bytes: changes %v, want %v", round, sizeA, sizeB, got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("round %d: change %d is %v, want %v", round, i, got[i], want[i])
			}
		}
	}
}

// What is alike is not read.
func TestDiffReadsWhatDiffers(t *testing.T) {
	const chunk, size = 4096, int64(256*256*256) * 4096
	f := newForest()
	chunks := map[int64]byte{}
	for i := range int64(200) {
		chunks[i*80_000] = 1
	}
	a := f.plant(size, chunk, chunks)
	chunks[80_000] = 2
	b := f.plant(size, chunk, chunks)
	n := 0
	must(t, Diff(t.Context(), &a, &b, f.read, func(Change) error { n++; return nil }))
	if f.reads != 6 || n != 1 {
		t.Errorf("%d changes, %d nodes read; want 1, and 2 of each of the 3 levels", n, f.reads)
	}
	f.reads = 0
	must(t, Diff(t.Context(), &a, &a, f.read, func(Change) error { n++; return nil }))
	if f.reads != 0 || n != 1 {
		t.Errorf("%d nodes of equal trees read", f.reads)
	}
}

func TestDiffEndsEarly(t *testing.T) {
	f := newForest()
	a, b := f.plant(1<<20, 4096, nil), f.plant(1<<20, 4096, map[int64]byte{0: 1, 2: 1})
	full := errors.New("full")
	if err := Diff(t.Context(), &a, &b, f.read, func(Change) error { return full }); !errors.Is(err, full) {
		t.Errorf("an error of changed: %v", err)
	}
	lost := func(context.Context, Hash, int) (*Node, error) { return nil, full }
	if err := Diff(t.Context(), &a, &b, lost, nil); !errors.Is(err, full) {
		t.Errorf("an error of read: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Diff(ctx, &a, &b, f.read, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
