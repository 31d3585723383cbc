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

func newForest() *forest {
	return &forest{nodes: map[merkle.Hash]*merkle.Node{}, level: map[merkle.Hash]int{}, reads: map[merkle.Hash]int{}}
}

func (f *forest) put(level int, n *merkle.Node) merkle.Hash {
	h := merkle.Sum(merkle.NodeKind(level), n.Encode())
	f.nodes[h], f.level[h] = n, level
	return h
}

func (f *forest) read(_ context.Context, h merkle.Hash, level int, room *merkle.Node) (*merkle.Node, error) {
	if f.nodes[h] == nil || f.level[h] != level {
		return nil, errors.New("there is no such node")
	}
	f.reads[h]++
	if f.reads[h]%2 == 0 { // as from a cache
		return f.nodes[h], nil
	}
	*room = *f.nodes[h]
	return room, nil
}

// A walk visits what can be reached from the roots and nothing else, each node once, however many
// trees share it; a node that can't be read ends it.
func TestWalk(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	f := newForest()
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
	w := NewWalker(f.read, func(h *merkle.Hash) { got[*h] = true }, 100, 1<<20)
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
	if err := NewWalker(f.read, func(*merkle.Hash) {}, 100, 1<<20).Tree(t.Context(), roots[9]); err == nil {
		t.Error("a tree whose top is lost was walked")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewWalker(f.read, func(*merkle.Hash) {}, 100, 1<<20).Tree(ctx, roots[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("a walk that was ended: %v", err)
	}
}

// A walker whose memory is too small for the nodes visits all that can be reached nevertheless, and
// does not walk anew what a tree has in common with the one before.
func TestWalkWithLittleMemory(t *testing.T) {
	const trees = 50
	r := rand.New(rand.NewPCG(7, 7))
	f := newForest()
	leaf := func() merkle.Hash {
		n := new(merkle.Node)
		n[0], n[255] = randomHash(r), randomHash(r)
		return f.put(1, n)
	}
	// Each tree has one leaf that the tree before has not, or one at another place.
	var middle [4]merkle.Node
	for i := range middle {
		for j := range 64 {
			middle[i][j] = leaf()
		}
	}
	var roots []*merkle.Root
	for range trees {
		top := new(merkle.Node)
		n := &middle[r.IntN(len(middle))]
		if r.IntN(4) == 0 {
			n[1], n[2] = n[2], n[1]
		} else {
			n[r.IntN(64)] = leaf()
		}
		for i := range middle {
			n := middle[i]
			top[i] = f.put(2, &n)
		}
		roots = append(roots, &merkle.Root{Depth: 3, Top: f.put(3, top)})
	}
	roots = append(roots, &merkle.Root{Depth: 2, Top: f.nodes[roots[0].Top][0]}, &merkle.Root{Depth: 2}) // of another depth; of zeroes
	want := map[merkle.Hash]bool{}
	all := NewWalker(f.read, func(h *merkle.Hash) { want[*h] = true }, 1000, 1<<20)
	for _, root := range roots {
		if err := all.Tree(t.Context(), root); err != nil {
			t.Fatal(err)
		}
	}
	unique := len(f.reads)
	f.reads = map[merkle.Hash]int{}
	got := map[merkle.Hash]bool{}
	w := NewWalker(f.read, func(h *merkle.Hash) { got[*h] = true }, 1000, 300)
	if w.Bytes() > 300 {
		t.Errorf("%d bytes of memory, want at most 300", w.Bytes())
	}
	for _, root := range roots {
		if err := w.Tree(t.Context(), root); err != nil {
			t.Fatal(err)
		}
	}
	for h := range want {
		if !got[h] {
			t.Errorf("%v can be reached, and is not alive", h)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d are alive, want %d", len(got), len(want))
	}
	reads := 0
	for _, n := range f.reads {
		reads += n
	}
	// A tree costs its top, a middle node and one or two leaves; the first two twice; the last tree a middle node's 64 leaves.
	if most := unique + trees*5 + 65; reads > most {
		t.Errorf("%d nodes were read for %d, want at most %d", reads, unique, most)
	}
}

// A tree that was not walked to its end is none that another one may be walked beside.
func TestWalkBesideFailure(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	f := newForest()
	var leaves [8]merkle.Hash
	for i := range leaves {
		n := new(merkle.Node)
		n[0] = randomHash(r)
		leaves[i] = f.put(1, n)
	}
	tree := func(order ...int) *merkle.Root {
		n := new(merkle.Node)
		for i, l := range order {
			n[i] = leaves[l]
		}
		return &merkle.Root{Depth: 2, Top: f.put(2, n)}
	}
	first, second := tree(0, 1, 2, 3, 4, 5, 6, 7), tree(0, 1, 7, 3, 4, 5, 6, 2)
	if v := newVisited(8, 1<<10); v.has(&merkle.Hash{31: 1}) {
		t.Error("a hash that begins with zeroes was visited before it was added")
	}
	lost := f.nodes[leaves[0]]
	delete(f.nodes, leaves[0])
	got := map[merkle.Hash]bool{}
	w := NewWalker(f.read, func(h *merkle.Hash) { got[*h] = true }, 8, 0)
	w.visited.forgotten = true
	if err := w.Tree(t.Context(), first); err == nil {
		t.Fatal("a tree with a lost leaf was walked")
	}
	f.nodes[leaves[0]] = lost
	if err := w.Tree(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	for _, l := range leaves {
		if !got[l] {
			t.Errorf("leaf %v was not visited", l)
		}
	}
}

// A walk allocates nothing for a node.
func TestWalkAllocations(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	f := newForest()
	var roots [2]*merkle.Root
	for i := range roots {
		var top merkle.Node
		for j := range top {
			var leaf merkle.Node
			leaf[i] = randomHash(r)
			top[j] = f.put(1, &leaf)
		}
		roots[i] = &merkle.Root{Depth: 2, Top: f.put(2, &top)}
	}
	read := func(_ context.Context, h merkle.Hash, _ int, room *merkle.Node) (*merkle.Node, error) {
		*room = *f.nodes[h]
		return room, nil
	}
	w := NewWalker(read, func(*merkle.Hash) {}, 8, 0)
	n := testing.AllocsPerRun(5, func() {
		for _, root := range roots {
			if err := w.Tree(t.Context(), root); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n > 0 {
		t.Errorf("walking %d nodes allocates %.0f times", len(f.nodes), n)
	}
	if w.Nodes() < 6*int64(len(f.nodes)) {
		t.Errorf("%d nodes were visited: the walk does not say much", w.Nodes())
	}
}

// What can't be read below a node is an error of every tree that has the node.
func TestWalkMeetsErrorInEachTree(t *testing.T) {
	lost := errors.New("lost")
	hash := func(b byte) merkle.Hash { return merkle.Hash{b, 15: b} }
	nodes := map[merkle.Hash]*merkle.Node{hash(1): {hash(3)}, hash(2): {hash(3), hash(5)}, hash(3): {hash(4)}, hash(5): {hash(6)}, hash(6): {hash(7)}}
	read := func(_ context.Context, h merkle.Hash, _ int, _ *merkle.Node) (*merkle.Node, error) {
		if n := nodes[h]; n != nil {
			return n, nil
		}
		return nil, lost
	}
	w := NewWalker(read, func(*merkle.Hash) {}, 100, 1<<20)
	for _, top := range []byte{1, 2} {
		if err := w.Tree(t.Context(), &merkle.Root{Top: hash(top), Depth: 3}); !errors.Is(err, lost) {
			t.Errorf("tree %d: %v", top, err)
		}
	}
}
