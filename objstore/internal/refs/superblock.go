package refs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/vfs"
)

// A superblock is one sector, in two files of the same bytes:
//
//	  0  magic "varveSB\0"
//	  8  version u32: 1 without features, 2 with any
//	 12  chunk size u32, bytes
//	 16  store UUID, 16 bytes
//	 32  hash u32: 1 is BLAKE3-256
//	 36  fan-out u32: hashes in a tree node
//	 40  created i64, nanoseconds of Unix time
//	 48  UUID to be known by, 16 bytes; zeroes: the store UUID, which all of the files carry
//	 64  incompatible features u64: bit n is feature n
//	 72  read-only compatible features u64: bit n is feature 64 + n
//	 80  names of these features in order of their numbers, with a 0 between them; then zeroes
//	508  CRC-32C of bytes 0 to 507
//
// A varve from before features reads version 1 alone, and refuses a store that has any. Since
// version 2 the masks decide: a varve refuses the features that it does not know, and says what
// they are called.
const (
	superblockSize  = 512
	superblockMagic = "varveSB\x00"
	hashBlake3      = 1

	versionPlain    = 1
	versionFeatures = 2

	offVersion      = 8
	offChunkSize    = 12
	offStore        = 16
	offHash         = 32
	offFanOut       = 36
	offCreated      = 40
	offKnownAs      = 48
	offIncompatible = 64
	offCompatible   = 72
	offNames        = 80
	offChecksum     = 508
)

// The files of the superblock, relative to the store.
const (
	SuperblockFile = "superblock"
	SuperblockCopy = "superblock.copy"
)

var le = binary.LittleEndian

// Superblock says which store it is, and how to read the store.
type Superblock struct {
	ChunkSize int       // bytes
	ID        uuid.UUID // in all files
	KnownAs   uuid.UUID // that people see; zero: ID
	Created   time.Time
	Features  Features // that the store may use; none is ever taken back

	nameText string // the names of Features, as they were read, if this varve does not know them all
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
	version := versionPlain
	if !sb.Features.empty() {
		version = versionFeatures
	}
	b := make([]byte, superblockSize)
	copy(b, superblockMagic)
	le.PutUint32(b[offVersion:], uint32(version))
	le.PutUint32(b[offChunkSize:], uint32(sb.ChunkSize))
	copy(b[offStore:], sb.ID[:])
	le.PutUint32(b[offHash:], hashBlake3)
	le.PutUint32(b[offFanOut:], merkle.FanOut)
	le.PutUint64(b[offCreated:], uint64(sb.Created.UnixNano()))
	copy(b[offKnownAs:], sb.KnownAs[:])
	le.PutUint64(b[offIncompatible:], sb.Features.incompatible)
	le.PutUint64(b[offCompatible:], sb.Features.compatible)
	copy(b[offNames:offChecksum], sb.encodeNames())
	le.PutUint32(b[offChecksum:], disk.Checksum(b[:offChecksum]))
	return b
}

// names returns a name for each of the features, in order of their numbers: this varve's, or for a
// feature that it does not know the superblock's, which may be empty.
func (sb *Superblock) names() []string {
	read := strings.Split(sb.nameText, "\x00")
	out := make([]string, 0, len(read))
	for i, f := range sb.Features.list() {
		name := featureNames[f]
		if name == "" && i < len(read) {
			name = read[i]
		}
		out = append(out, name)
	}
	return out
}

// encodeNames returns the names as they are in the sector, without the zeroes behind them.
func (sb *Superblock) encodeNames() string {
	text := strings.Join(sb.names(), "\x00")
	return strings.TrimRight(text[:min(len(text), offChecksum-offNames)], "\x00")
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
	version := le.Uint32(b[offVersion:])
	if version < versionPlain || version > versionFeatures {
		return nil, fmt.Errorf("%w: version %d, this varve reads versions %d and %d; open it with a newer varve",
			disk.ErrVersion, version, versionPlain, versionFeatures)
	}
	sb := &Superblock{
		ChunkSize: int(le.Uint32(b[offChunkSize:])),
		ID:        uuid.UUID(b[offStore:offHash]),
		KnownAs:   uuid.UUID(b[offKnownAs:offIncompatible]),
		Created:   time.Unix(0, int64(le.Uint64(b[offCreated:]))),
		Features:  Features{le.Uint64(b[offIncompatible:]), le.Uint64(b[offCompatible:])},
	}
	if !knownFeatures().Has(sb.Features) {
		sb.nameText = string(b[offNames:offChecksum])
		sb.nameText = sb.encodeNames()
	}
	if version == versionPlain && !sb.Features.empty() {
		return nil, fmt.Errorf("features %x and %x in version %d, want version %d",
			sb.Features.incompatible, sb.Features.compatible, version, versionFeatures)
	}
	if err := disk.CheckChunkSize(sb.ChunkSize); err != nil {
		return nil, err
	}
	if h, f := le.Uint32(b[offHash:]), le.Uint32(b[offFanOut:]); h != hashBlake3 || f != merkle.FanOut {
		return nil, fmt.Errorf("%w: hash %d and fan-out %d, this varve knows %d and %d",
			disk.ErrVersion, h, f, hashBlake3, merkle.FanOut)
	}
	if unknown := sb.Features.without(knownFeatures()); unknown.incompatible != 0 {
		return nil, fmt.Errorf("%w: the store uses %s, which this varve does not know; open it with a newer varve",
			disk.ErrVersion, Features{incompatible: unknown.incompatible}.describe(sb))
	}
	return sb, nil
}

// CheckWritable returns ErrVersion if the store uses a feature with which this varve can read the
// store, but not write to it.
func (sb *Superblock) CheckWritable() error {
	unknown := sb.Features.without(knownFeatures())
	if unknown.empty() {
		return nil
	}
	return fmt.Errorf("%w: the store uses %s, which this varve does not know: it can read the store (stat, list, check), "+
		"and not write to it; serve it with a newer varve", disk.ErrVersion, unknown.describe(sb))
}

// ReadSuperblock returns the first good copy, with the features of both, repairs the other one, and
// returns what was wrong with it. ErrNotStore if there is none, ErrVersion if this varve must not
// open the store. With readOnly, the store will not be written to: features that forbid no more
// than that are accepted.
func ReadSuperblock(fs vfs.FS, readOnly bool) (*Superblock, []*disk.CorruptError, error) {
	var found *Superblock
	good := map[string]Superblock{}
	var damage []*disk.CorruptError
	var firstErr error
	missing := 0
	for _, name := range []string{SuperblockFile, SuperblockCopy} {
		sb, err := ReadSuperblockFile(fs, name)
		switch {
		case err == nil && found == nil:
			good[name] = *sb
			found = sb
		case err == nil:
			good[name] = *sb
			found.Features = found.Features.Union(sb.Features)
		case errors.Is(err, disk.ErrVersion):
			return nil, nil, err
		case !disk.Damaged(err) && !errors.Is(err, os.ErrNotExist):
			return nil, nil, err
		default:
			damage = append(damage, disk.AsCorrupt(err, name, 0, "superblock"))
			if errors.Is(err, os.ErrNotExist) {
				missing++
			}
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
	if err := found.CheckWritable(); err != nil && !readOnly {
		return nil, nil, err
	}
	return found, damage, found.repair(fs, good)
}

// repair replaces the copies that differ from the superblock: one that is damaged, or one that a
// UUID or a feature has not reached. good is what could be read.
func (sb *Superblock) repair(fs vfs.FS, good map[string]Superblock) error {
	for _, name := range []string{SuperblockFile, SuperblockCopy} {
		if had, ok := good[name]; ok && had == *sb {
			continue
		}
		err := disk.ReplaceFile(fs, name, sb.Encode())
		// A full disk can wait for the next opening, and so can one that has lost the file's inode.
		if err != nil && !errors.Is(disk.SpaceError(err), disk.ErrNoSpace) && !disk.Unreadable(err) {
			return fmt.Errorf("repair %s: %w", name, err)
		}
	}
	return nil
}

// ReadSuperblockFile reads one copy. Bytes that are no superblock are a disk.CorruptError, those of
// a newer varve an error that wraps disk.ErrVersion.
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
	switch {
	case errors.Is(err, disk.ErrVersion): // the bytes are as they should be
		return nil, fmt.Errorf("%s: %w", name, err)
	case err != nil:
		return nil, &disk.CorruptError{File: name, Object: "superblock", Err: err}
	}
	return sb, nil
}

// Write replaces both copies, durably. In between the first counts, with the features of both.
func (sb *Superblock) Write(fs vfs.FS) error {
	if err := sb.replace(fs, SuperblockFile); err != nil {
		return err
	}
	failpoint.Here(failpoint.SuperblockFirst)
	return sb.replace(fs, SuperblockCopy)
}

// Create writes both copies to a directory that has none, durably. It is a store as soon as
// SuperblockFile is there, which comes last.
func (sb *Superblock) Create(fs vfs.FS) error {
	if err := sb.replace(fs, SuperblockCopy); err != nil {
		return err
	}
	return sb.replace(fs, SuperblockFile)
}

func (sb *Superblock) replace(fs vfs.FS, name string) error {
	if err := disk.ReplaceFile(fs, name, sb.Encode()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
