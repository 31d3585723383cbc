// Package superblock encodes what the superblocks of disks over files have in common: a page that begins
// with the place of a leg in its set. A disk in a single file is a set of one.
//
//	0        8         12         16         32     36      40            4096
//	+--------+---------+----------+----------+------+-------+---- ... ----+
//	| magic  | version | checksum | set UUID | legs | index |             |
//	+--------+---------+----------+----------+------+-------+---- ... ----+
//
//	checksum  CRC-32C of all 4096 bytes with a checksum of 0
//	index     the leg's place in the set, from 0
//
// Numbers are little endian. What follows is the target's.
package superblock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/google/uuid"

	"varve/uring/queue"
)

// Size of a superblock, in bytes.
const Size = 4096

// Where things are in a superblock, in bytes.
const (
	VersionAt  = 8
	ChecksumAt = 12
	uuidAt     = 16
	LegsAt     = 32
	IndexAt    = 36
)

// ErrDamaged says that the magic is there, and the rest is not as it was written.
var ErrDamaged = errors.New("damaged superblock")

// Format is one kind of superblock.
type Format struct {
	Magic   string // 8 bytes
	Version uint32
	None    error // of Decode, where the magic is another
}

// Head is what a superblock begins with.
type Head struct {
	ID          uuid.UUID
	Legs, Index uint32
}

// Encode clears a superblock, and fills in its head. Seal ends it.
func (f *Format) Encode(p []byte, h Head) {
	clear(p)
	copy(p, f.Magic)
	le := binary.LittleEndian
	le.PutUint32(p[VersionAt:], f.Version)
	copy(p[uuidAt:], h.ID[:])
	le.PutUint32(p[LegsAt:], h.Legs)
	le.PutUint32(p[IndexAt:], h.Index)
}

// Seal fills in the checksum.
func Seal(p []byte) { binary.LittleEndian.PutUint32(p[ChecksumAt:], checksum(p)) }

// Whole reports whether the checksum is right.
func Whole(p []byte) bool { return binary.LittleEndian.Uint32(p[ChecksumAt:]) == checksum(p) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(p []byte) uint32 {
	var zero [uuidAt - ChecksumAt]byte
	sum := crc32.Checksum(p[:ChecksumAt], castagnoli)
	sum = crc32.Update(sum, castagnoli, zero[:])
	return crc32.Update(sum, castagnoli, p[uuidAt:Size])
}

// Decode reads the head of a superblock, whose numbers are not checked. It changes nothing in p.
// Errors: Format.None, ErrDamaged, and queue.ErrInvalid for another version.
func (f *Format) Decode(p []byte) (Head, error) {
	le := binary.LittleEndian
	if string(p[:VersionAt]) != f.Magic {
		return Head{}, f.None
	}
	if !Whole(p) {
		return Head{}, fmt.Errorf("%w: checksum %#x, want %#x", ErrDamaged, le.Uint32(p[ChecksumAt:]), checksum(p))
	}
	if v := le.Uint32(p[VersionAt:]); v != f.Version {
		return Head{}, fmt.Errorf("%w: superblock of version %d, this varve knows %d", queue.ErrInvalid, v, f.Version)
	}
	return Head{uuid.UUID(p[uuidAt:LegsAt]), le.Uint32(p[LegsAt:]), le.Uint32(p[IndexAt:])}, nil
}
