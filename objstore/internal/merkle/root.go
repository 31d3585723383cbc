package merkle

import (
	"encoding/binary"
	"errors"
	"fmt"

	"varve/objstore/internal/disk"
)

// maxDepth bounds the level of a node. disk.MaxVolumeSize in the smallest chunks needs level 5.
const maxDepth = 6

// The encoding of a Root, 64 bytes:
//
//	 0  magic "varveRT\0"
//	 8  version u32
//	12  chunk size u32, bytes
//	16  size of the image u64, bytes
//	24  depth u32: the level of the top node
//	28  zeroes
//	32  hash of the top node, 32 bytes
const (
	RootSize  = 64
	rootMagic = "varveRT\x00"
)

// Root describes the tree of an image. Its hash ([Root.Hash]) names the image: it is the root of a
// snapshot.
type Root struct {
	ChunkSize int   // bytes
	Size      int64 // of the image, bytes
	Depth     int   // level of the top node, from 1; see [Depth]
	Top       Hash  // of the top node; zero: the image is all zeroes
}

// EmptyRoot returns the root of an image of zeroes.
func EmptyRoot(size int64, chunkSize int) Root {
	return Root{ChunkSize: chunkSize, Size: size, Depth: Depth(size, chunkSize)}
}

// Hash returns the hash of the root object.
func (r *Root) Hash() Hash { return Sum(KindRoot, r.Encode()) }

// Encode returns the encoding of r, RootSize bytes.
func (r *Root) Encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, RootSize)
	copy(b, rootMagic)
	le.PutUint32(b[8:], disk.Version)
	le.PutUint32(b[12:], uint32(r.ChunkSize))
	le.PutUint64(b[16:], uint64(r.Size))
	le.PutUint32(b[24:], uint32(r.Depth))
	copy(b[32:], r.Top[:])
	return b
}

// MayBeRoot reports whether b begins as the encoding of a root does, for a search through bytes
// whose record is lost.
func MayBeRoot(b []byte) bool { return len(b) >= RootSize && string(b[:len(rootMagic)]) == rootMagic }

// DecodeRoot decodes and validates a root. A version that this program does not know is
// disk.ErrVersion.
func DecodeRoot(b []byte) (*Root, error) {
	le := binary.LittleEndian
	if len(b) != RootSize || string(b[:8]) != rootMagic {
		return nil, errors.New("not a root object")
	}
	if v := le.Uint32(b[8:]); v != disk.Version {
		return nil, fmt.Errorf("%w: root version %d", disk.ErrVersion, v)
	}
	r := &Root{
		ChunkSize: int(le.Uint32(b[12:])),
		Size:      int64(le.Uint64(b[16:])),
		Depth:     int(le.Uint32(b[24:])),
		Top:       Hash(b[32:RootSize]),
	}
	if err := disk.CheckChunkSize(r.ChunkSize); err != nil {
		return nil, err
	}
	if r.Size <= 0 || r.Size > disk.MaxVolumeSize || r.Depth != Depth(r.Size, r.ChunkSize) {
		return nil, fmt.Errorf("size %d bytes and depth %d", r.Size, r.Depth)
	}
	return r, nil
}

// Depth returns the level of the top node over an image of size bytes.
func Depth(size int64, chunkSize int) int {
	chunks := (size + int64(chunkSize) - 1) / int64(chunkSize)
	depth := 1
	for Span(depth) < chunks {
		depth++
	}
	return depth
}
