package mark

import (
	"encoding/binary"

	"varve/objstore/internal/merkle"
)

// ways is how many keys a set of visited has: those of a cache line.
const ways = 4

// key stands for a hash of a tree node. To find two nodes that agree in 16 bytes of BLAKE3 takes
// 2^64 attempts; a shorter key would let a volume's writer hide one node behind another. The level
// is hashed too, so that nodes of different levels differ.
type key [16]byte

const keyBytes = int64(len(key{}))

// visited remembers tree nodes in memory that is bounded: it is a set-associative cache, and where a
// set is full, a node that comes takes the place of another one. It errs on one side: of a node that
// was not added, has is false.
type visited struct {
	sets      [][ways]key
	next      uint // which key of a full set is replaced next
	forgotten bool // a node was replaced
}

// newVisited returns an empty memory for about so many nodes, of at most limit bytes, but for one set.
func newVisited(nodes, limit int64) visited {
	n := min(nodes+nodes/2, limit/keyBytes) / ways // a third stays free, so that few sets are full before all are
	return visited{sets: make([][ways]key, max(n, 1))}
}

func (v *visited) bytes() int64 { return int64(len(v.sets)) * ways * keyBytes }

// set returns the set of a key. A hash is uniform; chosen content makes a set full, which costs time,
// and is nothing worse.
func (v *visited) set(k *key) *[ways]key {
	return &v.sets[binary.LittleEndian.Uint64(k[:])%uint64(len(v.sets))]
}

// has reports whether a node is known to have been added.
func (v *visited) has(h *merkle.Hash) bool {
	k := key(h[:])
	set := v.set(&k)
	for i := range set {
		if set[i] == k {
			return k != key{} // that is what an empty place looks like
		}
	}
	return false
}

// add adds a node.
func (v *visited) add(h *merkle.Hash) {
	k := key(h[:])
	set := v.set(&k)
	for i := range set {
		if set[i] == (key{}) {
			set[i] = k
			return
		}
	}
	set[v.next%ways] = k
	v.next++
	v.forgotten = true
}
