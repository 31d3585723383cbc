package edges

import (
	"context"
	"hash/maphash"
	"maps"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

// Nodes reads tree nodes.
type Nodes interface {
	// Node returns the tree node of a level, which the caller does not change. An error for which
	// disk.Damaged is true says that the node is lost.
	Node(ctx context.Context, h merkle.Hash, level int) (*merkle.Node, error)
}

// Bytes is what objects take on disk.
type Bytes struct {
	Data int64 // chunks
	Tree int64 // tree nodes and root objects
}

// Total is the sum of both.
func (b Bytes) Total() int64 { return b.Data + b.Tree }

func (b *Bytes) add(o Bytes) {
	b.Data += o.Data
	b.Tree += o.Tree
}

// Slot returns what an object of n bytes takes on disk: whole blocks.
func Slot(n int64) int64 { return disk.RoundUp(n, disk.BlockSize) }

// Graph counts the edges of a set of roots. It has no lock: its owner guards it.
//
// After an error of Add or Remove the counts are wrong, and the graph is of no use any more.
type Graph struct {
	seed   maphash.Seed // of keys: two chunks with one key cannot be made on purpose
	nodes  map[uint64]node
	chunks table
	tree   int64 // bytes of live nodes and roots, as they lie on disk
	length int64 // the same, of their encodings
	chunk  int64 // bytes of a chunk
	limit  int64 // bytes that chunks may take; at least one shard's growth is above
	sample uint  // only chunks whose keys end in that many zero bits are counted
	lost   int   // nodes that could not be read
}

// node is what the graph knows of a live tree node.
type node struct {
	below Bytes // of the node and all below, as often as they are referred to
	edges uint32
	used  uint16 // hashes in its encoding
	lost  bool   // the node could not be read: its children's edges were not counted
}

// New returns an empty graph of a store with chunks of chunk bytes, whose counts of chunks take at
// most limit bytes of memory.
func New(chunk int, limit int64) *Graph {
	return &Graph{seed: maphash.MakeSeed(), nodes: map[uint64]node{}, chunk: int64(chunk), limit: limit}
}

func (g *Graph) key(h *merkle.Hash) uint64 { return maphash.Bytes(g.seed, h[:]) }

// Live returns what all live objects take, each once.
func (g *Graph) Live() Bytes {
	return Bytes{Data: int64(g.chunks.n) * g.chunk << g.sample, Tree: g.tree}
}

// Length returns the length of all live tree nodes and roots: less than what they take on disk.
func (g *Graph) Length() int64 { return g.length }

// Exact reports whether every chunk is counted, rather than a sample.
func (g *Graph) Exact() bool { return g.sample == 0 }

// Lost returns how many nodes could not be read. What only they refer to is not counted.
func (g *Graph) Lost() int { return g.lost }

// Memory returns about how many bytes of memory the graph takes.
func (g *Graph) Memory() int64 { return g.chunks.bytes() + int64(len(g.nodes))*60 }

// Referenced returns what the objects of an image take if each is counted as often as it is
// referred to: what the image would take without deduplication. The root must have been added.
func (g *Graph) Referenced(root *merkle.Root) Bytes {
	if root.Top.IsZero() {
		return Bytes{}
	}
	b := Bytes{Tree: Slot(merkle.RootSize)}
	b.add(g.nodes[g.key(&root.Top)].below)
	return b
}

// Add adds the edges of a root, which must not have been added before. The root of an image of
// zeroes has none, and counts for nothing.
func (g *Graph) Add(ctx context.Context, from Nodes, root *merkle.Root) error {
	if root.Top.IsZero() {
		return nil
	}
	g.count(Slot(merkle.RootSize), merkle.RootSize)
	_, err := g.addNode(ctx, from, &root.Top, root.Depth, 1)
	return err
}

// addNode adds n edges to a node, and returns what it and all below take.
func (g *Graph) addNode(ctx context.Context, from Nodes, h *merkle.Hash, level int, n uint32) (Bytes, error) {
	key := g.key(h)
	if known, ok := g.nodes[key]; ok {
		known.edges += n
		g.nodes[key] = known
		return known.below, nil
	}
	content, err := from.Node(ctx, *h, level)
	if err != nil && !disk.Damaged(err) {
		return Bytes{}, err
	}
	added := node{edges: n, lost: err != nil}
	if added.lost {
		g.lost++
		content = new(merkle.Node)
	}
	err = eachRun(content, func(child *merkle.Hash, run uint32) error {
		below := Bytes{Data: g.chunk}
		if level == 1 {
			g.addChunk(child, run)
		} else if below, err = g.addNode(ctx, from, child, level-1, run); err != nil {
			return err
		}
		added.below.add(Bytes{below.Data * int64(run), below.Tree * int64(run)})
		return nil
	})
	if err != nil {
		return Bytes{}, err
	}
	added.used = encoded(content)
	added.below.Tree += added.slot()
	g.count(added.slot(), added.length())
	g.nodes[key] = added
	return added.below, nil
}

func (g *Graph) addChunk(h *merkle.Hash, n uint32) {
	key := g.key(h)
	if !samples(key, g.sample) {
		return
	}
	g.chunks.set(key, g.chunks.get(key)+n)
	for g.chunks.bytes() > g.limit && g.sample < 32 && g.chunks.n > shards {
		g.sample++
		g.chunks.thin(1<<g.sample - 1)
	}
}

// samples reports whether a chunk is one of a sample.
func samples(key uint64, sample uint) bool { return key&(1<<sample-1) == 0 }

// Remove takes away the edges of a root that was added.
func (g *Graph) Remove(ctx context.Context, from Nodes, root *merkle.Root) error {
	_, err := g.walk(ctx, from, []*merkle.Root{root}, remover{g})
	return err
}

// Freed returns what removing some roots together would free, and whether that is exact. It changes
// nothing. The roots must have been added, and no two may be equal.
//
// A chunk to which other roots, or several of these nodes, refer takes memory until Freed returns:
// where all of them would take more than the graph's limit, a sample of them is counted.
func (g *Graph) Freed(ctx context.Context, from Nodes, roots []*merkle.Root) (freed Bytes, exact bool, err error) {
	t := &trial{g: g, nodes: map[uint64]uint32{}, chunks: map[uint64]uint32{}, sample: g.sample}
	freed, err = g.walk(ctx, from, roots, t)
	return freed, t.sample == 0, err
}

// counter takes edges away, or tries to.
type counter interface {
	// node takes n edges of a node away, and returns how many are left.
	node(key uint64, n uint32) (left uint32)
	// chunk takes n edges of a chunk away, and returns for how many chunks that have none left this
	// one stands.
	chunk(key uint64, n uint32) (freed int64)
	// freed is told of a node or a root without edges: what it takes on disk, and its length.
	freed(slot, length int64)
}

// walk takes away the edges of roots, of the nodes that are left without an edge, and so on, and
// returns what that frees.
func (g *Graph) walk(ctx context.Context, from Nodes, roots []*merkle.Root, c counter) (Bytes, error) {
	var freed Bytes
	for _, root := range roots {
		if root.Top.IsZero() {
			continue
		}
		freed.Tree += Slot(merkle.RootSize)
		c.freed(Slot(merkle.RootSize), merkle.RootSize)
		if err := g.takeNode(ctx, from, &root.Top, root.Depth, 1, c, &freed); err != nil {
			return freed, err
		}
	}
	return freed, nil
}

func (g *Graph) takeNode(ctx context.Context, from Nodes, h *merkle.Hash, level int, n uint32, c counter, freed *Bytes) error {
	key := g.key(h)
	known := g.nodes[key]
	if c.node(key, n) > 0 {
		return nil
	}
	freed.Tree += known.slot()
	c.freed(known.slot(), known.length())
	if known.lost {
		return nil
	}
	content, err := from.Node(ctx, *h, level)
	if err != nil {
		return err
	}
	return eachRun(content, func(child *merkle.Hash, run uint32) error {
		if level > 1 {
			return g.takeNode(ctx, from, child, level-1, run, c, freed)
		}
		freed.Data += c.chunk(g.key(child), run) * g.chunk
		return nil
	})
}

// remover is a counter that takes the edges away.
type remover struct{ g *Graph }

func (r remover) node(key uint64, n uint32) uint32 {
	known := r.g.nodes[key]
	if known.edges -= min(n, known.edges); known.edges == 0 {
		delete(r.g.nodes, key)
		if known.lost {
			r.g.lost--
		}
		return 0
	}
	r.g.nodes[key] = known
	return known.edges
}

func (r remover) chunk(key uint64, n uint32) int64 {
	if !samples(key, r.g.sample) {
		return 0
	}
	was := r.g.chunks.get(key)
	left := was - min(n, was)
	r.g.chunks.set(key, left)
	if left > 0 {
		return 0
	}
	return 1 << r.g.sample
}

func (r remover) freed(slot, length int64) { r.g.count(-slot, -length) }

// trial is a counter that notes what would be taken away.
type trial struct {
	g      *Graph
	nodes  map[uint64]uint32
	chunks map[uint64]uint32
	sample uint // of the chunks, as of Graph; at least as coarse
}

// notedBytes is about what an entry of a trial's maps takes.
const notedBytes = 32

func (t *trial) node(key uint64, n uint32) uint32 {
	t.nodes[key] += n
	return t.g.nodes[key].edges - t.nodes[key]
}

func (t *trial) freed(_, _ int64) {}

func (t *trial) chunk(key uint64, n uint32) int64 {
	if !samples(key, t.sample) {
		return 0
	}
	if has := t.g.chunks.get(key); has != n { // otherwise nothing else refers to it: there is nothing to note
		t.chunks[key] += n
		if has != t.chunks[key] {
			t.thin()
			return 0
		}
	}
	return 1 << t.sample
}

// thin makes the sample coarser until the notes are within the graph's limit. What was found before
// counts as it did.
func (t *trial) thin() {
	for int64(len(t.chunks))*notedBytes > t.g.limit && t.sample < 32 {
		t.sample++
		maps.DeleteFunc(t.chunks, func(key uint64, _ uint32) bool { return !samples(key, t.sample) })
	}
}

// eachRun calls f for each run of equal hashes of a node, but for zeroes.
func eachRun(n *merkle.Node, f func(child *merkle.Hash, run uint32) error) error {
	for i := 0; i < len(n); {
		j := i + 1
		for j < len(n) && n[j] == n[i] {
			j++
		}
		if !n[i].IsZero() {
			if err := f(&n[i], uint32(j-i)); err != nil {
				return err
			}
		}
		i = j
	}
	return nil
}

// encoded returns how many hashes the encoding of a node has; 0: it is lost.
func encoded(n *merkle.Node) uint16 {
	last := len(n)
	for last > 0 && n[last-1].IsZero() {
		last--
	}
	return uint16(last)
}

func (n *node) length() int64 { return int64(n.used) * merkle.HashSize }
func (n *node) slot() int64   { return Slot(n.length()) }

// count adds to what live nodes and roots take: on disk, and in length.
func (g *Graph) count(slot, length int64) {
	g.tree += slot
	g.length += length
}
