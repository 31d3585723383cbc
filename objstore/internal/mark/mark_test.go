package mark

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"varve/objstore/internal/merkle"
)

func randomHash(r *rand.Rand) (h merkle.Hash) {
	for i := range h {
		h[i] = byte(r.Uint32())
	}
	return h
}

// What was added is there, in the filter of its part and in no other; of what was not, few pass.
func TestFilter(t *testing.T) {
	const objects = 200_000
	for _, parts := range []int{1, 3} {
		r := rand.New(rand.NewPCG(1, uint64(parts)))
		seed := NewSeed()
		filters := make([]*Filter, parts)
		for p := range filters {
			filters[p] = NewFilter(seed, objects, p, parts)
			if got, most := filters[p].Bytes(), int64(objects/parts+blockBytes); got > most {
				t.Errorf("a filter of %d objects takes %d bytes, want at most %d", objects/parts, got, most)
			}
		}
		added := make([]merkle.Hash, objects)
		for i := range added {
			added[i] = randomHash(r)
			for _, f := range filters {
				f.Add(&added[i])
			}
		}
		for i := range added {
			for p, f := range filters {
				if !f.Has(&added[i]) {
					t.Fatalf("%d parts: hash %d was added, and filter %d lacks it", parts, i, p)
				}
			}
		}
		passed := 0
		for range objects {
			h := randomHash(r)
			all := true
			for _, f := range filters {
				all = all && f.Has(&h)
			}
			if all {
				passed++
			}
		}
		if share := float64(passed) / objects; share > 0.04 {
			t.Errorf("%d parts: %.2f %% of what was not added pass", parts, 100*share)
		}
	}
}

// Each hash is of one part.
func TestFilterParts(t *testing.T) {
	const parts = 5
	r := rand.New(rand.NewPCG(2, 2))
	seed := NewSeed()
	var of [parts]int
	for range 20_000 {
		h := randomHash(r)
		lacks := 0
		for p := range parts {
			if f := NewFilter(seed, 64, p, parts); !f.Has(&h) {
				lacks++
				of[p]++
			}
		}
		if lacks != 1 {
			t.Fatalf("%d empty filters lack a hash, want the one of its part", lacks)
		}
	}
	for p, n := range of {
		if n < 3600 || n > 4400 {
			t.Errorf("part %d has %d of 20,000 hashes", p, n)
		}
	}
}

// The seed decides what passes by mistake, so that nobody can choose chunks that do.
func TestFilterSeed(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	a, b := NewFilter(NewSeed(), 64, 0, 1), NewFilter(NewSeed(), 64, 0, 1)
	for range 64 {
		h := randomHash(r)
		a.Add(&h)
		b.Add(&h)
	}
	both, one := 0, 0
	for range 100_000 {
		h := randomHash(r)
		if a.Has(&h) {
			if one++; b.Has(&h) {
				both++
			}
		}
	}
	if one == 0 || both > one/5 {
		t.Errorf("%d pass one filter by mistake, %d of them the other too", one, both)
	}
}

func TestPasses(t *testing.T) {
	for _, c := range []struct {
		objects, limit int64
		want           int
	}{{0, 1 << 20, 1}, {1 << 20, 1 << 20, 1}, {1<<20 + 1, 1 << 20, 2}, {10 << 20, 1 << 20, 10}, {1, 0, 1}} {
		if got := Passes(c.objects, c.limit); got != c.want {
			t.Errorf("%d objects in %d bytes: %d passes, want %d", c.objects, c.limit, got, c.want)
		}
	}
}

// What one goroutine has added, another one finds.
func TestFilterBesideAdds(t *testing.T) {
	f := NewFilter(NewSeed(), 10_000, 0, 1)
	added := make(chan merkle.Hash, 16)
	var all sync.WaitGroup
	all.Go(func() {
		defer close(added)
		r := rand.New(rand.NewPCG(4, 4))
		for range 10_000 {
			h := randomHash(r)
			f.Add(&h)
			added <- h
		}
	})
	all.Go(func() {
		r := rand.New(rand.NewPCG(5, 5))
		for range 10_000 {
			h := randomHash(r)
			f.Add(&h)
		}
	})
	for h := range added {
		if !f.Has(&h) {
			t.Fatal("a hash was added, and is not there")
		}
	}
	all.Wait()
}

// forest is a store of nodes that counts how often each is read.
type forest struct {
	nodes map[merkle.Hash]*merkle.Node
	level map[merkle.Hash]int
	reads map[merkle.Hash]int
}

func (f *forest) put(level int, n *merkle.Node) merkle.Hash {
	h := merkle.Sum(merkle.NodeKind(level), n.Encode())
	f.nodes[h], f.level[h] = n, level
	return h
}

func (f *forest) read(_ context.Context, h merkle.Hash, level int) (*merkle.Node, error) {
	if f.nodes[h] == nil || f.level[h] != level {
		return nil, errors.New("there is no such node")
	}
	f.reads[h]++
	return f.nodes[h], nil
}

// A walk visits what can be reached from the roots and nothing else, each node once, however many
// trees share it; a node that can't be read ends it.
func TestWalk(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	f := &forest{nodes: map[merkle.Hash]*merkle.Node{}, level: map[merkle.Hash]int{}, reads: map[merkle.Hash]int{}}
	want := map[merkle.Hash]bool{}
	leaf := func(live bool) merkle.Hash {
		n := new(merkle.Node)
		for range 1 + r.IntN(20) {
			c := randomHash(r)
			n[r.IntN(len(n))] = c
		}
		for _, c := range n {
			if live && !c.IsZero() {
				want[c] = true
			}
		}
		h := f.put(1, n)
		want[h] = want[h] || live
		return h
	}
	shared := leaf(true)
	var roots []*merkle.Root
	for range 10 {
		n := new(merkle.Node)
		n[0], n[3], n[255] = shared, leaf(true), leaf(true)
		h := f.put(2, n)
		want[h] = true
		roots = append(roots, &merkle.Root{Depth: 2, Top: h})
	}
	dead := leaf(false)
	got := map[merkle.Hash]bool{}
	w := &Walker{Node: f.read, Alive: func(h *merkle.Hash) { got[*h] = true }}
	for range 2 {
		for _, root := range roots {
			if err := w.Tree(t.Context(), root); err != nil {
				t.Fatal(err)
			}
		}
	}
	for h, live := range want {
		if got[h] != live {
			t.Errorf("%v: alive %v, want %v", h, got[h], live)
		}
	}
	if len(got) != len(want)-1 || got[dead] {
		t.Errorf("%d hashes are alive, want %d", len(got), len(want)-1)
	}
	for h, n := range f.reads {
		if n != 1 {
			t.Errorf("node %v was read %d times", h, n)
		}
	}
	if w.Nodes() != int64(len(f.reads)) {
		t.Errorf("%d nodes, want %d", w.Nodes(), len(f.reads))
	}
	delete(f.nodes, roots[9].Top)
	if err := (&Walker{Node: f.read, Alive: func(*merkle.Hash) {}}).Tree(t.Context(), roots[9]); err == nil {
		t.Error("a tree whose top is lost was walked")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&Walker{Node: f.read, Alive: func(*merkle.Hash) {}}).Tree(ctx, roots[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("a walk that was ended: %v", err)
	}
}
