package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/superblock"
	"varve/uring/queue"
)

// Each leg begins with what it knows of the set, and with the intent bitmap (bitmap.go):
//
//	0         4 KiB     8 KiB    64 KiB                    1 MiB
//	+---------+---------+--------+-------------------------+------ ... ------+
//	| state 0 | state 1 |   0    | intent bitmap           | the disk's data |
//	+---------+---------+--------+-------------------------+------ ... ------+
//
// The state, version 1, little endian, is written to the two slots in turns. The valid one with more
// events counts, so that a write which is torn leaves the state before it. The bytes that the
// drawing does not name are zero.
//
//	0        8         12         16         32     36      40
//	+--------+---------+----------+----------+------+-------+
//	| magic  | version | checksum | set UUID | legs | index |
//	+--------+---------+----------+----------+------+-------+
//	40     48          56       60      64       72      80            144       152        4096
//	+------+-----------+--------+-------+--------+-------+-------------+---------+--- ... ---+
//	| size | region    | block  | clean | events | parts | left        | settled |     0     |
//	+------+-----------+--------+-------+--------+-------+-------------+---------+--- ... ---+
//
//	checksum  CRC-32C of all 4096 bytes with a checksum of 0
//	index     the leg's place in the set, from 0
//	size      of the disk, in bytes, whole blocks
//	region    bytes of the disk for each bit of the bitmap, a power of two
//	block     the disk's block size
//	clean     1: no write was under way, and the legs in sync hold the same bytes
//	events    grows by one with each state of the set
//	parts     a byte for each of 8 legs: 0 out, 1 resyncing, 2 in sync
//	left      for each of 8 legs: the events that the set had when the leg went out
//	settled   the events of the state before, which all legs have that are not out
const (
	stateSize = superblock.Size
	slots     = 2

	sizeAt    = 40
	regionAt  = 48
	blockAt   = 56
	cleanAt   = 60
	eventsAt  = 64
	partsAt   = 72
	leftAt    = 80
	settledAt = leftAt + 8*MaxLegs
)

// Where things are on a leg, in bytes.
const (
	bitmapOffset = 64 << 10
	// DataOffset is where the disk's data begins.
	DataOffset = 1 << 20
)

// Bounds of a set.
const (
	MinLegs       = 2
	MaxLegs       = 8
	MinRegionSize = 64 << 10 // bytes, as those below
	MaxRegionSize = 1 << 30

	minDefaultRegion = 1 << 20
	defaultRegions   = 1 << 16 // a new set has no more, unless it is told to
	maxSize          = 1 << 56 // no file is larger, and sums can't overflow
)

// part is what a leg is to its set.
type part uint8

const (
	partOut       part = iota // it lacks what was written since it left
	partResyncing             // it is written, and not read: it lacks regions whose bits are set
	partInSync                // it has everything
	knownParts
)

var partNames = [knownParts]string{"out", "resyncing", "in-sync"}

func (p part) String() string { return partNames[p] }

// state is what all legs of a set say alike.
type state struct {
	id     uuid.UUID
	legs   int
	size   int64 // of the disk, in bytes
	region int64 // in bytes
	block  int   // in bytes
	clean  bool
	events uint64
	parts  [MaxLegs]part
	left   [MaxLegs]uint64 // events of the set when the leg went out

	settled uint64 // events of the state before
}

// legSet is a set of legs, a bit for each index.
type legSet uint8

func one(leg int) legSet          { return 1 << leg }
func (l legSet) has(leg int) bool { return l&one(leg) != 0 }

// in returns the legs that have a part.
func (s *state) in(p part) (l legSet) {
	for i := range s.legs {
		if s.parts[i] == p {
			l |= one(i)
		}
	}
	return l
}

// active are the legs that are written.
func (s *state) active() legSet { return s.in(partInSync) | s.in(partResyncing) }

// regions is how many bits the bitmap has.
func (s *state) regions() int { return int((s.size + s.region - 1) / s.region) }

var errNone = errors.New("no superblock of a mirror")

var kind = superblock.Format{Magic: "VarveMir", Version: 1, None: errNone}

// encode fills in the state as the leg of an index has it.
func (s *state) encode(p []byte, index int) {
	kind.Encode(p, superblock.Head{ID: s.id, Legs: uint32(s.legs), Index: uint32(index)})
	le := binary.LittleEndian
	le.PutUint64(p[sizeAt:], uint64(s.size))
	le.PutUint64(p[regionAt:], uint64(s.region))
	le.PutUint32(p[blockAt:], uint32(s.block))
	if s.clean {
		p[cleanAt] = 1
	}
	le.PutUint64(p[eventsAt:], s.events)
	for i := range s.legs {
		p[partsAt+i] = byte(s.parts[i])
		le.PutUint64(p[leftAt+8*i:], s.left[i])
	}
	le.PutUint64(p[settledAt:], s.settled)
	superblock.Seal(p)
}

// decode reads one slot. It changes nothing in p.
func decode(p []byte) (s state, index int, err error) {
	head, err := kind.Decode(p)
	if err != nil {
		return s, 0, err
	}
	le := binary.LittleEndian
	size, region := le.Uint64(p[sizeAt:]), le.Uint64(p[regionAt:])
	s.id, s.legs, s.size, s.region = head.ID, int(head.Legs), int64(min(size, 2*maxSize)), int64(min(region, 2*MaxRegionSize))
	s.block, s.clean, s.events = int(le.Uint32(p[blockAt:])), p[cleanAt] == 1, le.Uint64(p[eventsAt:])
	s.settled = le.Uint64(p[settledAt:])
	if err := s.check(); err != nil {
		return s, 0, fmt.Errorf("%w: %w", superblock.ErrDamaged, err)
	}
	for i := range s.legs {
		s.parts[i], s.left[i] = part(p[partsAt+i]), le.Uint64(p[leftAt+8*i:])
		if s.parts[i] >= knownParts {
			return s, 0, fmt.Errorf("%w: leg %d has part %d", superblock.ErrDamaged, i, s.parts[i])
		}
	}
	if head.Index >= head.Legs || s.in(partInSync) == 0 {
		return s, 0, fmt.Errorf("%w: leg %d of %d, in sync %#b", superblock.ErrDamaged, head.Index, head.Legs, s.in(partInSync))
	}
	var again [stateSize]byte
	if s.encode(again[:], int(head.Index)); [stateSize]byte(p) != again {
		return s, 0, fmt.Errorf("%w: bytes that version %d leaves zero are not", superblock.ErrDamaged, kind.Version)
	}
	return s, int(head.Index), nil
}

// check reports what no set can be.
func (s *state) check() error {
	switch {
	case s.legs < MinLegs || s.legs > MaxLegs:
		return fmt.Errorf("%w: a mirror of %d legs; it has %d to %d", queue.ErrInvalid, s.legs, MinLegs, MaxLegs)
	case s.block != 512 && s.block != 4096:
		return fmt.Errorf("%w: block size %d; use 512 or 4096", queue.ErrInvalid, s.block)
	case s.size <= 0 || s.size > maxSize || s.size%int64(s.block) != 0:
		return fmt.Errorf("%w: a mirror of %d bytes: not a positive multiple of the block size %d", queue.ErrInvalid, s.size, s.block)
	case s.region < MinRegionSize || s.region > MaxRegionSize || s.region&(s.region-1) != 0:
		return fmt.Errorf("%w: region size %d; use a power of two from %d to %d", queue.ErrInvalid, s.region, MinRegionSize, MaxRegionSize)
	case int64(s.regions()) > maxRegions:
		return fmt.Errorf("%w: %d regions of %d bytes; a mirror has %d at most", queue.ErrInvalid, s.regions(), s.region, maxRegions)
	}
	return nil
}

// sameSet reports whether two states are of one set, apart from what changes.
func (s *state) sameSet(o *state) bool {
	return s.id == o.id && s.legs == o.legs && s.size == o.size && s.region == o.region && s.block == o.block
}

// readState reads what a leg knows, and the slot that it is in.
func readState(d disk) (s state, index, slot int, err error) {
	p := backing.Memory(slots * stateSize)
	if err := d.ReadAt(p, 0); err != nil {
		return s, 0, 0, err
	}
	found := false
	for i := range slots {
		one, at, e := decode(p[i*stateSize : (i+1)*stateSize])
		switch {
		case e == nil && (!found || one.events > s.events):
			s, index, slot, found = one, at, i, true
		case e != nil && (err == nil || errors.Is(err, errNone)): // what is damaged says more
			err = e
		}
	}
	if found {
		return s, index, slot, nil
	}
	return s, 0, 0, err
}
