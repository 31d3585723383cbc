package segment

import (
	"varve/objstore/internal/disk"
)

// place is where a chunk lies: a segment's ID in the high half, a block number in the low one. 0 is a hole.
type Location uint64

// lostPlace stands for a chunk that the tree names and no segment has.
const Lost = ^Location(0)

func At(segment, block uint32) Location { return Location(segment)<<32 | Location(block) }
func (p Location) Segment() uint32      { return uint32(p >> 32) }
func (p Location) Block() uint32        { return uint32(p) }
func (p Location) Offset() int64        { return int64(p.Block()) * disk.BlockSize }
