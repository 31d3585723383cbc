package merkle

import (
	"errors"
	"fmt"
)

// FanOut is how many hashes a node has.
const FanOut = 256

// NodeSize is the length in bytes of the longest encoding of a Node.
const NodeSize = FanOut * HashSize

// Node is a node of the tree: the hashes of the 256 chunks (leaf, level 1) or of the 256 nodes of
// the level below that it covers. It is encoded as its hashes, 32 bytes each, one after the other,
// without the zero hashes at the end:
//
//	   0  hash of child 0
//	  32  hash of child 1
//	  ..
//	32*n  hash of child n, the last one that is not zero
//
// So equal content has one encoding. A node of zero hashes alone is the zero Hash in its parent and
// is not stored.
type Node [FanOut]Hash

// Encode returns the encoding of n; empty for a node of zero hashes alone.
func (n *Node) Encode() []byte {
	last := len(n)
	for last > 0 && n[last-1].IsZero() {
		last--
	}
	b := make([]byte, 0, last*HashSize)
	for i := range last {
		b = append(b, n[i][:]...)
	}
	return b
}

// DecodeNode decodes what Encode returned; it accepts no other encoding of the same hashes.
func DecodeNode(b []byte) (*Node, error) {
	n := new(Node)
	if err := n.Decode(b); err != nil {
		return nil, err
	}
	return n, nil
}

// Decode is DecodeNode into n. After an error n is undefined.
func (n *Node) Decode(b []byte) error {
	if len(b) == 0 || len(b)%HashSize != 0 || len(b) > NodeSize {
		return fmt.Errorf("tree node of %d bytes", len(b))
	}
	used := len(b) / HashSize
	for i := range used {
		n[i] = Hash(b[i*HashSize:])
	}
	clear(n[used:])
	if n[used-1].IsZero() {
		return errors.New("tree node that ends in a zero hash")
	}
	return nil
}

// Count returns how many of the node's hashes are not zero.
func (n *Node) Count() int {
	c := 0
	for i := range n {
		if !n[i].IsZero() {
			c++
		}
	}
	return c
}

// Span returns how many chunks a node of a level covers; level 0 is a chunk. The child of a node of
// level n that chunk i lies in or below has the number i / Span(n-1) % FanOut.
func Span(level int) int64 { return 1 << (8 * level) }
