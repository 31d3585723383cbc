package segment

import "varve/objstore/internal/disk"

// Location is where an object is: its segment's ID in the high half, its block in the low half. The
// zero Location is a hole. A Location is valid while a Pin is held: after that, live objects may be
// copied, and their segment unlinked. Only leaves in memory keep locations for longer, and look
// their objects up again when a segment does not exist any more.
type Location uint64

// Lost is the location of an object that the tree names and no segment has.
const Lost = ^Location(0)

// At returns the location of a block of a segment.
func At(segment, block uint32) Location { return Location(segment)<<32 | Location(block) }

// Segment returns the ID of the segment.
func (l Location) Segment() uint32 { return uint32(l >> 32) }

// Block returns the block in the segment's file.
func (l Location) Block() uint32 { return uint32(l) }

// Offset returns the offset in the segment's file, in bytes.
func (l Location) Offset() int64 { return int64(l.Block()) * disk.BlockSize }
