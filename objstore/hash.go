package objstore

import (
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/zeebo/blake3"
)

// Hash is the BLAKE3-256 of an object. The zero Hash stands for a chunk, or a subtree, of zeroes.
type Hash [32]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h stands for zeroes.
func (h Hash) IsZero() bool { return h == Hash{} }

// ParseHash reads the 64 hexadecimal digits that String writes.
func ParseHash(s string) (Hash, error) {
	var h Hash
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("root %q: %w: want 64 hexadecimal digits", s, ErrInvalid)
	}
	copy(h[:], b)
	return h, nil
}

// Kind says what an object is. Kinds are hashed apart, so that no chunk a user writes can pass for a node.
type Kind uint8

// The kinds of objects. A node's kind is kindNode plus its level, from 1 for a leaf.
const (
	KindChunk Kind = 1
	KindRoot  Kind = 2
	kindNode  Kind = 16
)

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

func (k Kind) valid() bool {
	return k == KindChunk || k == KindRoot || k > kindNode && k <= kindNode+maxDepth
}

var metaHashers = sync.Pool{New: func() any { return blake3.NewDeriveKey("varve tree object v1") }}

// sum hashes an object: a chunk plainly, anything else in a context of its own together with its kind.
func sum(k Kind, data []byte) Hash {
	if k == KindChunk {
		return blake3.Sum256(data)
	}
	h := metaHashers.Get().(*blake3.Hasher)
	defer metaHashers.Put(h)
	h.Reset()
	_, _ = h.Write([]byte{byte(k)}) // a hasher takes everything
	_, _ = h.Write(data)
	var out Hash
	h.Sum(out[:0])
	return out
}
