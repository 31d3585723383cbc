package merkle

import (
	"fmt"
	"sync"

	"github.com/zeebo/blake3"
)

// Kind is what an object is. The values are part of the disk format: of a segment's footer, and of
// what is hashed.
type Kind uint8

// The kinds of objects. Tree nodes have a kind for each level, see [NodeKind].
const (
	KindChunk Kind = 1
	KindRoot  Kind = 2
	kindNode  Kind = 16
)

// NodeKind is the kind of the tree nodes of a level, from 1 for a leaf.
func NodeKind(level int) Kind { return kindNode + Kind(level) }

// Valid reports whether an object of kind k can be in a store.
func (k Kind) Valid() bool {
	return k == KindChunk || k == KindRoot || k > kindNode && k <= kindNode+maxDepth
}

func (k Kind) String() string {
	switch {
	case k == KindChunk:
		return "chunk"
	case k == KindRoot:
		return "root"
	case k > kindNode && k <= kindNode+maxDepth:
		return fmt.Sprintf("tree node of level %d", k-kindNode)
	}
	return fmt.Sprintf("object of kind %d", uint8(k))
}

// metaHashers hash what is not a chunk. The context string is part of the disk format.
var metaHashers = sync.Pool{New: func() any { return blake3.NewDeriveKey("varve tree object v1") }}

// Sum returns the hash of an object of kind k with the encoding data. A chunk is hashed plainly;
// roots and nodes are hashed in a context of their own (BLAKE3's derive-key mode), with their kind
// before their bytes.
func Sum(k Kind, data []byte) Hash {
	if k == KindChunk {
		return blake3.Sum256(data)
	}
	h := metaHashers.Get().(*blake3.Hasher)
	defer metaHashers.Put(h)
	h.Reset()
	_, _ = h.Write([]byte{byte(k)}) // a Hasher's Write returns no error
	_, _ = h.Write(data)
	var out Hash
	h.Sum(out[:0])
	return out
}
