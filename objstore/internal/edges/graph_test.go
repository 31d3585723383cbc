package edges

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

const chunkSize = 4096

// forest holds trees in memory, and counts how many nodes are read.
type forest struct {
	nodes map[merkle.Hash]*merkle.Node
	reads int
	bad   map[merkle.Hash]error
}

func newForest() *forest {
	return &forest{nodes: map[merkle.Hash]*merkle.Node{}, bad: map[merkle.Hash]error{}}
}

func (f *forest) Node(_ context.Context, h merkle.Hash, _ int) (*merkle.Node, error) {
	f.reads++
	if err := f.bad[h]; err != nil {
		return nil, err
	}
	if n := f.nodes[h]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("no node %v", h)
}

// tree makes the tree of an image of depth 2, whose chunks are given by number; 0 is a hole.
func (f *forest) tree(chunks map[int]int) *merkle.Root {
	leaves := map[int]*merkle.Node{}
	for i, c := range chunks {
		if c == 0 {
			continue
		}
		l := leaves[i/merkle.FanOut]
		if l == nil {
			l = new(merkle.Node)
			leaves[i/merkle.FanOut] = l
		}
		l[i%merkle.FanOut] = merkle.Sum(merkle.KindChunk, binary.LittleEndian.AppendUint32(nil, uint32(c)))
	}
	var top merkle.Node
	for i, l := range leaves {
		top[i] = merkle.Sum(merkle.NodeKind(1), l.Encode())
		f.nodes[top[i]] = l
	}
	r := merkle.EmptyRoot(merkle.FanOut*merkle.FanOut*chunkSize, chunkSize)
	if enc := top.Encode(); len(enc) > 0 {
		r.Top = merkle.Sum(merkle.NodeKind(2), enc)
		f.nodes[r.Top] = &top
	}
	return &r
}

// recount returns what the objects of some roots take, each once, by walking all of them.
func (f *forest) recount(roots []*merkle.Root) Bytes {
	seen := map[merkle.Hash]bool{}
	var sum Bytes
	var walk func(h merkle.Hash, level int)
	walk = func(h merkle.Hash, level int) {
		if h.IsZero() || seen[h] {
			return
		}
		seen[h] = true
		if level == 0 {
			sum.Data += chunkSize
			return
		}
		n := f.nodes[h]
		sum.Tree += Slot(int64(len(n.Encode())))
		for _, c := range n {
			walk(c, level-1)
		}
	}
	for _, r := range roots {
		if !r.Top.IsZero() {
			sum.Tree += Slot(merkle.RootSize)
		}
		walk(r.Top, r.Depth)
	}
	return sum
}

// Over random histories of roots that share much with one another: what is live is what a walk
// counts, and a trial says what removing frees.
func TestGraphEqualsRecount(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f, g := newForest(), New(chunkSize, 1<<30)
		var roots []*merkle.Root
		cur := map[int]int{}
		check := func() {
			if got, want := g.Live(), f.recount(roots); got != want {
				rt.Fatalf("live %+v, a recount says %+v", got, want)
			}
		}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			switch {
			case len(roots) > 0 && rapid.IntRange(0, 2).Draw(rt, "op") == 0:
				out := rapid.Permutation(roots).Draw(rt, "order")
				out = out[:rapid.IntRange(1, len(out)).Draw(rt, "removed")]
				left := slices.DeleteFunc(slices.Clone(roots), func(r *merkle.Root) bool { return slices.Contains(out, r) })
				before, after := f.recount(roots), f.recount(left)
				freed, exact, err := g.Freed(context.Background(), f, out)
				if want := (Bytes{before.Data - after.Data, before.Tree - after.Tree}); err != nil || freed != want || !exact {
					rt.Fatalf("removing %d of %d roots would free %+v, exactly: %v, %v; a recount says %+v", len(out), len(roots), freed, exact, err, want)
				}
				check() // the trial has changed nothing
				for _, r := range out {
					if err := g.Remove(context.Background(), f, r); err != nil {
						rt.Fatal(err)
					}
				}
				roots = left
			default:
				for range rapid.IntRange(0, 12).Draw(rt, "changes") {
					at := rapid.SampledFrom([]int{0, 1, 2, 255, 256, 300, 5000}).Draw(rt, "at")
					for i := range rapid.IntRange(1, 300).Draw(rt, "run") {
						cur[at+i] = rapid.IntRange(0, 5).Draw(rt, "content")
					}
				}
				r := f.tree(cur)
				if slices.ContainsFunc(roots, func(o *merkle.Root) bool { return *o == *r }) {
					continue
				}
				if err := g.Add(context.Background(), f, r); err != nil {
					rt.Fatal(err)
				}
				roots = append(roots, r)
			}
			check()
		}
		for _, r := range roots {
			if err := g.Remove(context.Background(), f, r); err != nil {
				rt.Fatal(err)
			}
		}
		if g.Live() != (Bytes{}) || g.Length() != 0 || len(g.nodes) != 0 || g.chunks.n != 0 || len(g.chunks.over) != 0 {
			rt.Fatalf("without roots %+v are live, %d nodes, %d chunks", g.Live(), len(g.nodes), g.chunks.n)
		}
	})
}

// wide makes an image of n leaves of chunks that differ; base says which chunks.
func (f *forest) wide(leaves, base int, others ...int) *merkle.Root {
	chunks := map[int]int{}
	for i := range leaves * merkle.FanOut {
		chunks[i] = base + i
	}
	for _, i := range others {
		chunks[i] = -1 - i
	}
	return f.tree(chunks)
}

// A root that differs in one chunk costs the way to that chunk, whether it is added, tried or
// removed.
func TestCostIsOfTheDifference(t *testing.T) {
	f, g := newForest(), New(chunkSize, 1<<30)
	one, two := f.wide(100, 1), f.wide(100, 1, 5000)
	if err := g.Add(context.Background(), f, one); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"adding", func() error { return g.Add(context.Background(), f, two) }},
		{"a trial", func() error { _, _, err := g.Freed(context.Background(), f, []*merkle.Root{two}); return err }},
		{"removing", func() error { return g.Remove(context.Background(), f, two) }},
	} {
		f.reads = 0
		if err := step.do(); err != nil || f.reads != 2 {
			t.Errorf("%s reads %d nodes, %v; want a top node and a leaf", step.name, f.reads, err)
		}
	}
}

// near holds an estimate against what it estimates.
func near(t *testing.T, what string, got, want int64) {
	t.Helper()
	if off := math.Abs(float64(got-want)) / float64(want); off > 0.05 {
		t.Errorf("%s: %d bytes, off by %.1f %% from %d", what, got, off*100, want)
	}
}

// A trial that has to note more chunks than the limit allows counts a sample of them, and says so;
// the graph stays exact.
func TestTrialSample(t *testing.T) {
	const limit, leaves = 1 << 20, 250
	f, g := newForest(), New(chunkSize, limit)
	var roots []*merkle.Root
	for r := range 4 { // they have all chunks in common but one of each leaf, and so no leaf
		chunks := map[int]int{}
		for i := range leaves * merkle.FanOut {
			chunks[i] = 1 + i
		}
		for leaf := range leaves {
			chunks[leaf*merkle.FanOut] = (r+1)*1000000 + leaf
		}
		roots = append(roots, f.tree(chunks))
		if err := g.Add(context.Background(), f, roots[r]); err != nil {
			t.Fatal(err)
		}
	}
	freed, exact, err := g.Freed(context.Background(), f, roots)
	if err != nil || exact || !g.Exact() {
		t.Fatalf("exactly: %v, of an exact graph: %v, %v", exact, g.Exact(), err)
	}
	near(t, "freed", freed.Data, f.recount(roots).Data)
	if freed.Tree != g.Live().Tree {
		t.Errorf("%d bytes of nodes freed, %d are live", freed.Tree, g.Live().Tree)
	}
}

// Above its limit the graph estimates, within its limit, and says so.
func TestSample(t *testing.T) {
	const limit = 1 << 20
	f, g := newForest(), New(chunkSize, limit)
	var roots []*merkle.Root
	for i := range 8 {
		roots = append(roots, f.wide(250, 1+i*40000))
		if err := g.Add(context.Background(), f, roots[i]); err != nil {
			t.Fatal(err)
		}
	}
	if g.Exact() {
		t.Fatalf("%d bytes for the counts of %d chunks", g.chunks.bytes(), 8*250*merkle.FanOut)
	}
	if g.chunks.bytes() > limit {
		t.Errorf("counts take %d bytes, more than the limit of %d", g.chunks.bytes(), limit)
	}
	near(t, "live", g.Live().Data, f.recount(roots).Data)
	freed, exact, err := g.Freed(context.Background(), f, roots[:3])
	if err != nil || exact {
		t.Fatalf("exactly: %v, %v", exact, err)
	}
	near(t, "freed", freed.Data, f.recount(roots).Data-f.recount(roots[3:]).Data)
	for _, r := range roots {
		if err := g.Remove(context.Background(), f, r); err != nil {
			t.Fatal(err)
		}
	}
	if g.Live() != (Bytes{}) {
		t.Errorf("without roots %+v are live", g.Live())
	}
}

// A lost node counts for nothing, and neither does what only it refers to; an error that says
// nothing about the node is returned.
func TestLostNode(t *testing.T) {
	f, g := newForest(), New(chunkSize, 1<<30)
	r := f.wide(2, 1)
	top := f.nodes[r.Top]
	f.bad[top[1]] = &disk.CorruptError{File: "x", Object: "y", Err: errors.New("gone")}
	if err := g.Add(context.Background(), f, r); err != nil {
		t.Fatal(err)
	}
	want := Bytes{Data: 256 * chunkSize, Tree: Slot(merkle.RootSize) + Slot(2*merkle.HashSize) + Slot(merkle.NodeSize)}
	if g.Live() != want || g.Lost() != 1 {
		t.Errorf("live %+v, %d nodes lost; want %+v and 1", g.Live(), g.Lost(), want)
	}
	delete(f.bad, top[1]) // readable again: its children still have no edges to take away
	if err := g.Remove(context.Background(), f, r); err != nil || g.Live() != (Bytes{}) || g.Lost() != 0 {
		t.Errorf("afterwards %+v live, %d lost, %v", g.Live(), g.Lost(), err)
	}
	passing := errors.New("no memory")
	f.bad[top[0]] = passing
	if err := g.Add(context.Background(), f, r); !errors.Is(err, passing) {
		t.Errorf("error %v", err)
	}
}

// Referenced counts a chunk as often as the image has it.
func TestReferenced(t *testing.T) {
	f, g := newForest(), New(chunkSize, 1<<30)
	r := f.tree(map[int]int{0: 1, 1: 1, 7: 1, 300: 1, 600: 2})
	if err := g.Add(context.Background(), f, r); err != nil {
		t.Fatal(err)
	}
	if got := g.Referenced(r).Data; got != 5*chunkSize {
		t.Errorf("%d bytes of chunks referenced, want those of 5", got)
	}
	if got := g.Live().Data; got != 2*chunkSize {
		t.Errorf("%d bytes of chunks live, want those of 2", got)
	}
}

// Leaves that a node has several times, side by side and apart, in two roots: all their edges count.
func TestEqualLeaves(t *testing.T) {
	f, g := newForest(), New(chunkSize, 1<<30)
	leaf := func(chunks map[int]int, i, from int) {
		for j := range 3 {
			chunks[i*merkle.FanOut+j] = from + j
		}
	}
	var roots []*merkle.Root
	for r := range 3 {
		chunks := map[int]int{}
		for i := range 4 {
			leaf(chunks, i, 1)
		}
		leaf(chunks, 9, 1)
		leaf(chunks, 5, 100*(r+1))
		roots = append(roots, f.tree(chunks))
		if err := g.Add(context.Background(), f, roots[r]); err != nil {
			t.Fatal(err)
		}
	}
	for len(roots) > 0 {
		if got, want := g.Live(), f.recount(roots); got != want {
			t.Errorf("with %d roots %+v are live, a recount says %+v", len(roots), got, want)
		}
		if err := g.Remove(context.Background(), f, roots[0]); err != nil {
			t.Fatal(err)
		}
		roots = roots[1:]
	}
	if g.Live() != (Bytes{}) || len(g.nodes) != 0 {
		t.Errorf("without roots %+v are live, %d nodes", g.Live(), len(g.nodes))
	}
}
