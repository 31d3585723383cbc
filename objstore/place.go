package objstore

import (
	"varve/objstore/index"
	"varve/objstore/internal/disk"
)

// place is where a chunk lies: a segment's ID in the high half, a block number in the low one. 0 is a hole.
type place uint64

// lostPlace stands for a chunk that the tree names and no segment has.
const lostPlace = ^place(0)

func makePlace(segment, block uint32) place { return place(segment)<<32 | place(block) }
func (p place) segment() uint32             { return uint32(p >> 32) }
func (p place) block() uint32               { return uint32(p) }
func (p place) offset() int64               { return int64(p.block()) * disk.BlockSize }
func (p place) indexed() index.Place        { return index.Place{Segment: p.segment(), Block: p.block()} }
