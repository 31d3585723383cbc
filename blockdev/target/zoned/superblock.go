package zoned

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/superblock"
	"varve/blockdev/target/zoned/zone"
)

// The superblock, version 1, little endian, is at byte 0, and a copy of it at byte 4096. Each opening
// for writing writes first one, then the other; the one with more openings counts. The bytes that
// the drawing does not name are zero.
//
//	0        8         12         16     32    36    40
//	+--------+---------+----------+------+-----+-----+
//	| magic  | version | checksum | UUID |  1  |  0  |
//	+--------+---------+----------+------+-----+-----+
//	40     48          56             60         64           68      72         80     4096
//	+------+-----------+--------------+----------+------------+-------+----------+-- ... --+
//	| size | zone size | conventional | max open | max active | block | openings |    0    |
//	+------+-----------+--------------+----------+------------+-------+----------+-- ... --+
//
//	checksum      CRC-32C of all 4096 bytes with a checksum of 0
//	size          of the disk, in bytes, whole zones
//	conventional  how many zones are, from the first on
//	max open      how many zones may be open, and max active: open or closed; 0: any number
//	block         the disk's block size
//	openings      how often the disk was opened for writing: running pointers are those of one
const (
	superblockSize = superblock.Size
	copies         = 2

	sizeAt         = 40
	zoneSizeAt     = 48
	conventionalAt = 56
	maxOpenAt      = 60
	maxActiveAt    = 64
	blockAt        = 68
	openingsAt     = 72
	usedBytes      = 80

	maxSize = zone.MaxZones * zone.MaxSize
)

var errNone = errors.New("no superblock of a zoned disk")

var kind = superblock.Format{Magic: "VarveZon", Version: 1, None: errNone}

// super is what a superblock says.
type super struct {
	id       uuid.UUID
	geo      zone.Geometry
	block    int
	openings uint64
}

func (s *super) encode(p []byte) {
	kind.Encode(p, superblock.Head{ID: s.id, Legs: 1})
	le := binary.LittleEndian
	le.PutUint64(p[sizeAt:], uint64(s.geo.Size))
	le.PutUint64(p[zoneSizeAt:], uint64(s.geo.ZoneSize))
	le.PutUint32(p[conventionalAt:], uint32(s.geo.Conventional))
	le.PutUint32(p[maxOpenAt:], uint32(s.geo.MaxOpen))
	le.PutUint32(p[maxActiveAt:], uint32(s.geo.MaxActive))
	le.PutUint32(p[blockAt:], uint32(s.block))
	le.PutUint64(p[openingsAt:], s.openings)
	superblock.Seal(p)
}

func decodeSuper(p []byte) (super, error) {
	head, err := kind.Decode(p)
	if err != nil {
		return super{}, err
	}
	le := binary.LittleEndian
	number := func(at int) int { return int(min(le.Uint32(p[at:]), 2*zone.MaxZones)) }
	s := super{
		id: head.ID, block: number(blockAt), openings: le.Uint64(p[openingsAt:]),
		geo: zone.Geometry{
			Size: int64(min(le.Uint64(p[sizeAt:]), 2*maxSize)), ZoneSize: int64(min(le.Uint64(p[zoneSizeAt:]), 2*zone.MaxSize)),
			Conventional: number(conventionalAt), MaxOpen: number(maxOpenAt), MaxActive: number(maxActiveAt),
		},
	}
	err = s.geo.Validate()
	if err == nil && (head.Legs != 1 || head.Index != 0 || s.block != 512 && s.block != 4096) {
		err = fmt.Errorf("leg %d of %d, blocks of %d bytes", head.Index, head.Legs, s.block)
	}
	for _, b := range p[usedBytes:superblockSize] {
		if err == nil && b != 0 {
			err = fmt.Errorf("bytes that version %d leaves zero are not", kind.Version)
		}
	}
	if err != nil {
		return super{}, fmt.Errorf("%w: %w", superblock.ErrDamaged, err)
	}
	return s, nil
}

// readSuper reads the superblock of a file: the copy with more openings, of those that are whole.
func readSuper(f *backing.File) (s super, err error) {
	if f.Size() < copies*superblockSize {
		return s, errNone
	}
	p := backing.Memory(copies * superblockSize)
	if err := f.ReadAt(p, 0); err != nil {
		return s, err
	}
	found := false
	for i := range copies {
		c, e := decodeSuper(p[i*superblockSize : (i+1)*superblockSize])
		switch {
		case e == nil && (!found || c.openings > s.openings):
			s, found = c, true
		case e != nil && (err == nil || errors.Is(err, errNone)): // what is damaged says more
			err = e
		}
	}
	if found {
		return s, nil
	}
	return s, err
}

// write writes the superblock, durably; a write that is torn leaves the other copy.
func (s *super) write(f *backing.File) error {
	p := backing.Memory(superblockSize)
	s.encode(p)
	for i := range copies {
		if err := f.WriteAt(p, int64(i*superblockSize)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}
