package segment

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

const (
	flagsOffset      = 41
	shortenedFlag    = 1 // in the entries of an object log that was shortened
	shorteningOffset = 42
)

// ObjectSize is the length of an encoded Object in bytes.
const ObjectSize = 48

// Object is one entry of a segment's object list:
//
//	 0  hash, 32 bytes
//	32  block u32: offset in the file, in blocks of 4096 bytes
//	36  length u32, bytes
//	40  kind u8
//	41  flags u8; bit 0: the object log that the entry stands in was shortened, see File.Shrink
//	42  shortenings u16: in a footer, how often dead objects had been taken out of the list before;
//	    in a shortened object log, the number of the footer that the log replaces; at most 65535
//	44  zeroes
//
// A varve from before ignores bytes 41 to 47, and writes zeroes there.
type Object struct {
	Hash   merkle.Hash
	Block  uint32 // where it begins in the segment's file; never 0, which is the header
	Length uint32 // bytes
	Kind   merkle.Kind
}

func (o *Object) encode(b []byte) {
	copy(b, o.Hash[:])
	le.PutUint32(b[32:], o.Block)
	le.PutUint32(b[36:], o.Length)
	b[40] = byte(o.Kind)
	clear(b[41:ObjectSize])
}

// markShortenings sets the number of shortenings in encoded objects, which had none.
func markShortenings(b []byte, n int) {
	for at := shorteningOffset; at < len(b); at += ObjectSize {
		le.PutUint16(b[at:], uint16(min(n, math.MaxUint16)))
	}
}

// shorteningsIn returns the number of shortenings in encoded objects, all of which have the same.
func shorteningsIn(b []byte) int {
	if len(b) < ObjectSize {
		return 0
	}
	return int(le.Uint16(b[shorteningOffset:]))
}

func decodeObject(b []byte) (Object, error) {
	o := Object{Hash: merkle.Hash(b[:32]), Block: le.Uint32(b[32:]), Length: le.Uint32(b[36:]), Kind: merkle.Kind(b[40])}
	if !o.Kind.Valid() || o.Block == 0 || o.Length == 0 || o.Length > disk.MaxChunkSize || o.Hash.IsZero() {
		return o, fmt.Errorf("%v at block %d of %d bytes", o.Kind, o.Block, o.Length)
	}
	return o, nil
}

// EncodeObjects returns the encodings of objs, one after the other.
func EncodeObjects(objs []Object) []byte {
	b := make([]byte, len(objs)*ObjectSize)
	for i := range objs {
		objs[i].encode(b[i*ObjectSize:])
	}
	return b
}

// DecodeObjects decodes what EncodeObjects returned.
func DecodeObjects(b []byte) ([]Object, error) {
	if len(b)%ObjectSize != 0 {
		return nil, fmt.Errorf("%d bytes are no whole number of objects", len(b))
	}
	objs := make([]Object, len(b)/ObjectSize)
	for i := range objs {
		o, err := decodeObject(b[i*ObjectSize:])
		if err != nil {
			return nil, err
		}
		objs[i] = o
	}
	return objs, nil
}

// inOrder sorts objects by block.
func inOrder(byBlock map[uint32]Object) []Object {
	objs := make([]Object, 0, len(byBlock))
	for _, o := range byBlock {
		objs = append(objs, o)
	}
	slices.SortFunc(objs, func(a, b Object) int { return cmp.Compare(a.Block, b.Block) })
	return objs
}
