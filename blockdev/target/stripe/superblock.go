package stripe

import (
	"encoding/binary"
	"errors"
	"fmt"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/superblock"
	"varve/uring/queue"
)

// The superblock of a leg, version 1, little endian, is at byte 0, and a copy of it at byte 4096. It is
// written once, before the set is used for the first time. The bytes that the drawing does not name
// are zero.
//
//	0        8         12         16         32       36      40
//	+--------+---------+----------+----------+--------+-------+
//	| magic  | version | checksum | set UUID | legs   | index |
//	+--------+---------+----------+----------+--------+-------+
//	40           48            56               64       68          4096
//	+------------+-------------+----------------+--------+--- ... ---+
//	| chunk size | data offset | bytes of a leg | block  |     0     |
//	+------------+-------------+----------------+--------+--- ... ---+
//
//	checksum       CRC-32C of all 4096 bytes with a checksum of 0
//	index          the leg's place in the set, from 0
//	data offset    where the first chunk is: 1 MiB
//	bytes of a leg how much of the disk is on each leg, whole chunks
//	block          the disk's block size
const (
	superblockSize = superblock.Size
	copies         = 2

	chunkAt      = 40
	dataOffsetAt = 48
	legBytesAt   = 56
	blockAt      = 64
	usedBytes    = 68
)

// DataOffset is where a leg's part of the disk begins, in bytes.
const DataOffset = 1 << 20

// Bounds of a set.
const (
	MinLegs          = 2
	MaxLegs          = 64
	MinChunkSize     = 4 << 10 // bytes, as those below; chunk sizes are powers of two
	MaxChunkSize     = 4 << 20
	DefaultChunkSize = 64 << 10

	maxLeg = 1 << 56 // bytes; no file is larger, and sums can't overflow
)

var errNone = errors.New("no superblock of a stripe")

var kind = superblock.Format{Magic: "VarveStr", Version: 1, None: errNone}

// encode fills in the superblock of a leg.
func (s *set) encode(p []byte, index int) {
	kind.Encode(p, superblock.Head{ID: s.id, Legs: uint32(s.legs), Index: uint32(index)})
	le := binary.LittleEndian
	le.PutUint64(p[chunkAt:], uint64(s.chunk))
	le.PutUint64(p[dataOffsetAt:], DataOffset)
	le.PutUint64(p[legBytesAt:], uint64(s.leg))
	le.PutUint32(p[blockAt:], uint32(s.block))
	superblock.Seal(p)
}

// decode reads one copy of a superblock. It changes nothing in p.
func decode(p []byte) (s set, index int, err error) {
	head, err := kind.Decode(p)
	if err != nil {
		return s, 0, err
	}
	le := binary.LittleEndian
	chunk, leg := le.Uint64(p[chunkAt:]), le.Uint64(p[legBytesAt:])
	s.id, s.legs, s.chunk, s.leg = head.ID, int(head.Legs), int64(min(chunk, 2*MaxChunkSize)), int64(min(leg, 2*maxLeg))
	s.block = int(le.Uint32(p[blockAt:]))
	if err := s.check(); err != nil {
		return s, 0, fmt.Errorf("%w: %w", superblock.ErrDamaged, err)
	}
	if head.Index >= head.Legs || le.Uint64(p[dataOffsetAt:]) != DataOffset {
		return s, 0, fmt.Errorf("%w: leg %d of %d, data from %d on", superblock.ErrDamaged, head.Index, head.Legs, le.Uint64(p[dataOffsetAt:]))
	}
	for _, b := range p[usedBytes:superblockSize] {
		if b != 0 {
			return s, 0, fmt.Errorf("%w: bytes that version %d leaves zero are not", superblock.ErrDamaged, kind.Version)
		}
	}
	return s, int(head.Index), nil
}

// check reports what no set can be.
func (s *set) check() error {
	switch {
	case s.legs < MinLegs || s.legs > MaxLegs:
		return fmt.Errorf("%w: a stripe of %d legs; it has %d to %d", queue.ErrInvalid, s.legs, MinLegs, MaxLegs)
	case s.chunk < MinChunkSize || s.chunk > MaxChunkSize || s.chunk&(s.chunk-1) != 0:
		return fmt.Errorf("%w: chunk size %d; use a power of two from %d to %d", queue.ErrInvalid, s.chunk, MinChunkSize, MaxChunkSize)
	case s.block != 512 && s.block != 4096:
		return fmt.Errorf("%w: block size %d; use 512 or 4096", queue.ErrInvalid, s.block)
	case s.leg <= 0 || s.leg > maxLeg || s.leg%s.chunk != 0:
		return fmt.Errorf("%w: legs of %d bytes: not a positive multiple of the chunk size %d", queue.ErrInvalid, s.leg, s.chunk)
	}
	return nil
}

// read reads the superblock of a leg: the copy, if the first one is damaged or gone.
func read(f *backing.File) (s set, index int, err error) {
	if f.Size() < copies*superblockSize {
		return s, 0, errNone
	}
	p := backing.Memory(copies * superblockSize)
	if err := f.ReadAt(p, 0); err != nil {
		return s, 0, err
	}
	for i := range copies {
		var e error
		if s, index, e = decode(p[i*superblockSize:]); e == nil {
			return s, index, nil
		}
		if err == nil || errors.Is(err, errNone) { // what is damaged says more
			err = e
		}
	}
	return s, 0, err
}

// write writes the superblock of a leg, durably.
func (s *set) write(f *backing.File, index int) error {
	p := backing.Memory(copies * superblockSize)
	for i := range copies {
		s.encode(p[i*superblockSize:(i+1)*superblockSize], index)
	}
	if err := f.WriteAt(p, 0); err != nil {
		return err
	}
	return f.Sync()
}
