package objstore

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

var le = binary.LittleEndian

// Superblock, one sector, in two files of the same bytes:
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
	superblockSize   = 512
	superblockMagic  = "varveSB\x00"
	hashBlake3       = 1
	superblockFile   = "superblock"
	superblockCopy   = "superblock.copy"
	superblockCRC    = 508
	defaultChunkSize = 16 << 10
)

type superblock struct {
	chunkSize int
	id        uuid.UUID // in all files
	name      uuid.UUID // that the store is known by; zero: id
	created   time.Time
}

func (sb *superblock) encode() []byte {
	b := make([]byte, superblockSize)
	copy(b, superblockMagic)
	le.PutUint32(b[8:], disk.Version)
	le.PutUint32(b[12:], uint32(sb.chunkSize))
	copy(b[16:], sb.id[:])
	le.PutUint32(b[32:], hashBlake3)
	le.PutUint32(b[36:], merkle.FanOut)
	le.PutUint64(b[40:], uint64(sb.created.UnixNano()))
	copy(b[48:], sb.name[:])
	le.PutUint32(b[superblockCRC:], disk.Checksum(b[:superblockCRC]))
	return b
}

func decodeSuperblock(b []byte) (*superblock, error) {
	if len(b) < superblockSize {
		return nil, fmt.Errorf("truncated to %d bytes, want %d", len(b), superblockSize)
	}
	if string(b[:8]) != superblockMagic {
		return nil, errors.New("no varve magic")
	}
	if got, want := disk.Checksum(b[:superblockCRC]), le.Uint32(b[superblockCRC:]); got != want {
		return nil, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	if v := le.Uint32(b[8:]); v != disk.Version {
		return nil, fmt.Errorf("%w: version %d, this varve reads version %d", ErrVersion, v, disk.Version)
	}
	sb := &superblock{
		chunkSize: int(le.Uint32(b[12:])),
		id:        uuid.UUID(b[16:32]),
		name:      uuid.UUID(b[48:64]),
		created:   time.Unix(0, int64(le.Uint64(b[40:]))),
	}
	if err := disk.CheckChunkSize(sb.chunkSize); err != nil {
		return nil, err
	}
	if h, f := le.Uint32(b[32:]), le.Uint32(b[36:]); h != hashBlake3 || f != merkle.FanOut {
		return nil, fmt.Errorf("%w: hash %d and fan-out %d, this varve knows %d and %d", ErrVersion, h, f, hashBlake3, merkle.FanOut)
	}
	return sb, nil
}

// readSuperblock takes the first good copy, mends the other one, and says what was wrong with it.
func readSuperblock(fs vfs.FS) (*superblock, []*CorruptError, error) {
	var found *superblock
	var bad []string
	var damage []*CorruptError
	var firstErr error
	missing := 0
	for _, name := range []string{superblockFile, superblockCopy} {
		sb, err := readSuperblockFile(fs, name)
		switch {
		case err == nil && found == nil:
			found = sb
		case err == nil && *sb != *found: // a new name that came to the first alone
			bad = append(bad, name)
		case err == nil:
		case errors.Is(err, ErrVersion):
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
		err := disk.ReplaceFile(fs, name, found.encode())
		// A full disk can wait for the next opening, and so can one that has lost the file's inode.
		if err != nil && !errors.Is(disk.SpaceError(err), ErrNoSpace) && !disk.Unreadable(err) {
			return nil, nil, fmt.Errorf("mend %s: %w", name, err)
		}
	}
	return found, damage, nil
}

func readSuperblockFile(fs vfs.FS, name string) (*superblock, error) {
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
		return nil, &CorruptError{File: name, Object: "superblock", Err: err}
	}
	return sb, nil
}

// known is the UUID that people see.
func (sb *superblock) known() uuid.UUID {
	if sb.name == uuid.Nil {
		return sb.id
	}
	return sb.name
}

// FilesUUID is the UUID that the store's files carry, and those of its copies.
func (s *Store) FilesUUID() string { return s.sb.id.String() }

// NewUUID gives the store another UUID to be known by, and returns it. Its files keep the one that they carry.
func (s *Store) NewUUID() (string, error) {
	if err := s.writeError(); err != nil {
		return "", err
	}
	s.naming.Lock()
	defer s.naming.Unlock()
	sb := *s.sb
	sb.name = uuid.New()
	for _, name := range []string{superblockFile, superblockCopy} { // in between the first one counts
		if err := disk.ReplaceFile(s.fs, name, sb.encode()); err != nil {
			return "", fmt.Errorf("write %s: %w", name, s.spaceError(err))
		}
	}
	id := sb.name.String()
	s.uuid.Store(&id)
	return id, nil
}
