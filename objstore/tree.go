package objstore

import (
	"errors"
	"fmt"

	"varve/objstore/internal/disk"
)

// The tree of a volume: a radix tree of fixed fan-out over chunk numbers. A leaf (level 1) lists the hashes
// of 256 chunks, a node of level n those of 256 nodes of level n-1; the zero hash stands for zeroes. A node
// is encoded as its hashes one after the other, without the zero hashes at the end, so that equal content
// has one encoding; a node of nothing but zero hashes is the zero hash itself and is not stored.
//
// The root object says how to read the tree; its hash is the volume's, or snapshot's, root:
//
//	 0  magic "varveRT\0"
//	 8  version u32
//	12  chunk size u32, bytes
//	16  size of the image u64, bytes
//	24  depth u32: the level of the top node
//	28  zeroes
//	32  hash of the top node, 32 bytes
const (
	fanOut    = 256
	maxDepth  = 6
	rootMagic = "varveRT\x00"
	rootSize  = 64
)

type rootObject struct {
	chunkSize int
	size      int64
	depth     int
	top       Hash
}

func (r *rootObject) encode() []byte {
	b := make([]byte, rootSize)
	copy(b, rootMagic)
	le.PutUint32(b[8:], disk.Version)
	le.PutUint32(b[12:], uint32(r.chunkSize))
	le.PutUint64(b[16:], uint64(r.size))
	le.PutUint32(b[24:], uint32(r.depth))
	copy(b[32:], r.top[:])
	return b
}

func decodeRoot(b []byte) (*rootObject, error) {
	if len(b) != rootSize || string(b[:8]) != rootMagic {
		return nil, errors.New("not a root object")
	}
	if v := le.Uint32(b[8:]); v != disk.Version {
		return nil, fmt.Errorf("%w: root version %d", ErrVersion, v)
	}
	r := &rootObject{
		chunkSize: int(le.Uint32(b[12:])),
		size:      int64(le.Uint64(b[16:])),
		depth:     int(le.Uint32(b[24:])),
		top:       Hash(b[32:64]),
	}
	if err := disk.CheckChunkSize(r.chunkSize); err != nil {
		return nil, err
	}
	if r.size <= 0 || r.size > MaxVolumeSize || r.depth != treeDepth(r.size, r.chunkSize) {
		return nil, fmt.Errorf("size %d bytes and depth %d", r.size, r.depth)
	}
	return r, nil
}

// treeDepth is the level of the top node over an image of that size.
func treeDepth(size int64, chunkSize int) int {
	chunks := (size + int64(chunkSize) - 1) / int64(chunkSize)
	depth, reach := 1, int64(fanOut)
	for reach < chunks {
		depth++
		reach *= fanOut
	}
	return depth
}

// levelChunks is how many chunks a node of that level reaches over.
func levelChunks(level int) int64 { return 1 << (8 * level) }

type node [fanOut]Hash

func (n *node) encode() []byte {
	last := len(n)
	for last > 0 && n[last-1].IsZero() {
		last--
	}
	b := make([]byte, 0, last*len(Hash{}))
	for i := range last {
		b = append(b, n[i][:]...)
	}
	return b
}

func decodeNode(b []byte) (*node, error) {
	const size = len(Hash{})
	if len(b) == 0 || len(b)%size != 0 || len(b) > fanOut*size {
		return nil, fmt.Errorf("tree node of %d bytes", len(b))
	}
	n := new(node)
	for i := range len(b) / size {
		n[i] = Hash(b[i*size:])
	}
	if n[len(b)/size-1].IsZero() {
		return nil, errors.New("tree node that ends in a zero hash")
	}
	return n, nil
}

// count says how many of the node's hashes are not zero.
func (n *node) count() int {
	c := 0
	for i := range n {
		if !n[i].IsZero() {
			c++
		}
	}
	return c
}
