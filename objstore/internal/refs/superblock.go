package refs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/vfs"
)

// A superblock is one sector, in two files of the same bytes:
//
//	  0  magic "varveSB\0"
//	  8  version u32
//	 12  chunk size u32, bytes
//	 16  store UUID, 16 bytes
//	 32  hash u32: 1 is BLAKE3-256
//	 36  fan-out u32: hashes in a tree node
//	 40  created i64, nanoseconds of Unix time
//	 48  UUID to be known by, 16 bytes; zeroes: the store UUID, which all of the files carry
//	 64  zeroes
//	508  CRC-32C of bytes 0 to 507
const (
	superblockSize  = 512
	superblockMagic = "varveSB\x00"
	hashBlake3      = 1

	offVersion   = 8
	offChunkSize = 12
	offStore     = 16
	offHash      = 32
	offFanOut    = 36
	offCreated   = 40
	offKnownAs   = 48
	offReserved  = 64
	offChecksum  = 508
)

// The files of the superblock, relative to the store.
const (
	SuperblockFile = "superblock"
	SuperblockCopy = "superblock.copy"
)

var le = binary.LittleEndian

// Superblock says which store it is, and how to read it.
type Superblock struct {
	ChunkSize int       // bytes
	ID        uuid.UUID // in all files
	KnownAs   uuid.UUID // that people see; zero: ID
	Created   time.Time
}

// Known is the UUID that people see.
func (sb *Superblock) Known() uuid.UUID {
	if sb.KnownAs == uuid.Nil {
		return sb.ID
	}
	return sb.KnownAs
}

// Encode returns the sector.
func (sb *Superblock) Encode() []byte {
	b := make([]byte, superblockSize)
	copy(b, superblockMagic)
	le.PutUint32(b[offVersion:], disk.Version)
	le.PutUint32(b[offChunkSize:], uint32(sb.ChunkSize))
	copy(b[offStore:], sb.ID[:])
	le.PutUint32(b[offHash:], hashBlake3)
	le.PutUint32(b[offFanOut:], merkle.FanOut)
	le.PutUint64(b[offCreated:], uint64(sb.Created.UnixNano()))
	copy(b[offKnownAs:], sb.KnownAs[:])
	le.PutUint32(b[offChecksum:], disk.Checksum(b[:offChecksum]))
	return b
}

func decodeSuperblock(b []byte) (*Superblock, error) {
	if len(b) < superblockSize {
		return nil, fmt.Errorf("truncated to %d bytes, want %d", len(b), superblockSize)
	}
	if string(b[:offVersion]) != superblockMagic {
		return nil, errors.New("no varve magic")
	}
	if got, want := disk.Checksum(b[:offChecksum]), le.Uint32(b[offChecksum:]); got != want {
		return nil, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	if v := le.Uint32(b[offVersion:]); v != disk.Version {
		return nil, fmt.Errorf("%w: version %d, this varve reads version %d", disk.ErrVersion, v, disk.Version)
	}
	sb := &Superblock{
		ChunkSize: int(le.Uint32(b[offChunkSize:])),
		ID:        uuid.UUID(b[offStore:offHash]),
		KnownAs:   uuid.UUID(b[offKnownAs:offReserved]),
		Created:   time.Unix(0, int64(le.Uint64(b[offCreated:]))),
	}
	if err := disk.CheckChunkSize(sb.ChunkSize); err != nil {
		return nil, err
	}
	if h, f := le.Uint32(b[offHash:]), le.Uint32(b[offFanOut:]); h != hashBlake3 || f != merkle.FanOut {
		return nil, fmt.Errorf("%w: hash %d and fan-out %d, this varve knows %d and %d", disk.ErrVersion, h, f, hashBlake3, merkle.FanOut)
	}
	return sb, nil
}

// ReadSuperblock returns the first good copy, repairs the other one, and returns what was wrong with it. ErrNotStore if
// there is none.
func ReadSuperblock(fs vfs.FS) (*Superblock, []*disk.CorruptError, error) {
	var found *Superblock
	var bad []string
	var damage []*disk.CorruptError
	var firstErr error
	missing := 0
	for _, name := range []string{SuperblockFile, SuperblockCopy} {
		sb, err := ReadSuperblockFile(fs, name)
		switch {
		case err == nil && found == nil:
			found = sb
		case err == nil && *sb != *found: // a new UUID that came to the first alone
			bad = append(bad, name)
		case err == nil:
		case errors.Is(err, disk.ErrVersion):
			return nil, nil, err
		case !disk.Damaged(err) && !errors.Is(err, os.ErrNotExist):
			return nil, nil, err
		default:
			damage = append(damage, disk.AsCorrupt(err, name, 0, "superblock"))
			if errors.Is(err, os.ErrNotExist) {
				missing++
			}
			bad = append(bad, name)
			if firstErr == nil {
				firstErr = err
			}
		}
	}
	if missing == 2 {
		return nil, nil, fmt.Errorf("%w: no superblock", ErrNotStore)
	}
	if found == nil {
		return nil, nil, fmt.Errorf("both copies of the superblock are bad: %w", firstErr)
	}
	for _, name := range bad {
		err := disk.ReplaceFile(fs, name, found.Encode())
		// A full disk can wait for the next opening, and so can one that has lost the file's inode.
		if err != nil && !errors.Is(disk.SpaceError(err), disk.ErrNoSpace) && !disk.Unreadable(err) {
			return nil, nil, fmt.Errorf("mend %s: %w", name, err)
		}
	}
	return found, damage, nil
}

// ReadSuperblockFile reads one copy. Bytes that are no superblock of this version are a disk.CorruptError.
func ReadSuperblockFile(fs vfs.FS, name string) (*Superblock, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, superblockSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	sb, err := decodeSuperblock(b[:n])
	if err != nil {
		return nil, &disk.CorruptError{File: name, Object: "superblock", Err: err}
	}
	return sb, nil
}

// Write replaces both copies, durably. In between the first counts. The file that is the sign of a store is the last to be
// written to a directory that has none (Create).
func (sb *Superblock) Write(fs vfs.FS) error {
	return sb.write(fs, SuperblockFile, SuperblockCopy)
}

// Create writes both copies to a directory that has none, durably. It is a store as soon as SuperblockFile is there, which
// comes last.
func (sb *Superblock) Create(fs vfs.FS) error {
	return sb.write(fs, SuperblockCopy, SuperblockFile)
}

func (sb *Superblock) write(fs vfs.FS, names ...string) error {
	for _, name := range names {
		if err := disk.ReplaceFile(fs, name, sb.Encode()); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}
