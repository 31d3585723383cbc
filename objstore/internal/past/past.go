// Package past is the format of the file that lists past states of volumes: roots to which they
// had settled, and which their policies keep.
//
// The file is replaced as a whole, by way of a draft and a rename, so that after a crash it is the
// one from before or the one from after. Policies keep few states, and a file that says what there
// is, instead of what came and went, has no tail to tear and needs no compaction. Nothing of a
// volume depends on it: without the file there are no past states.
//
//	header, 96 bytes                       state, 96 bytes each, in order of volume and generation
//	  0  magic "varveHIS"                    0  CRC-32C of bytes 4 to 95
//	  8  version u32                         4  zeroes
//	 12  number of states u32                8  generation u64
//	 16  store UUID, 16 bytes               16  volume UUID, 16 bytes
//	 32  UUID of the boot, 16 bytes         32  root, 32 bytes
//	 48  time since that boot i64           64  size of the image u64, bytes
//	 56  policy clock at that time i64      72  bytes of it that are not holes u64
//	 64  zeroes                             80  when it settled i64, of the wall clock
//	 92  CRC-32C of bytes 0 to 91           88  the same by the policy clock i64
//
// Times are in nanoseconds, of Unix time but for that since the boot. A later opening in the same
// boot tells by bytes 32 to 63 what the policy clock is, whatever was done to the wall clock.
//
// Each state has a checksum of its own: damage costs the states that it lies in, and no others.
// Integers are little endian.
package past

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

// File is the path of the file, relative to the store.
const File = "refs/history"

// Sizes in bytes.
const (
	HeaderSize = 96
	StateSize  = 96
)

const (
	magic   = "varveHIS"
	version = 1

	offChecksum = 92
)

var le = binary.LittleEndian

// State is a root to which a volume had settled.
type State struct {
	Volume  uuid.UUID
	Gen     uint64 // the generation up to which it had settled: it orders the states of a volume
	Root    merkle.Hash
	Size    int64     // of the image, bytes
	Logical int64     // bytes of it that are not holes
	Settled time.Time // by the wall clock, for people
	At      time.Time // by the policy clock
}

// Clock says what the policy clock was at one moment.
type Clock struct {
	Boot      uuid.UUID
	SinceBoot time.Duration
	At        time.Time
}

// Encode returns the file of a store with the states, in any order, as of a moment.
func Encode(store uuid.UUID, clock Clock, states []State) []byte {
	states = slices.Clone(states)
	slices.SortFunc(states, func(a, b State) int {
		return cmp.Or(slices.Compare(a.Volume[:], b.Volume[:]), cmp.Compare(a.Gen, b.Gen))
	})
	b := make([]byte, HeaderSize, HeaderSize+len(states)*StateSize)
	copy(b, magic)
	le.PutUint32(b[8:], version)
	le.PutUint32(b[12:], uint32(len(states)))
	copy(b[16:], store[:])
	copy(b[32:], clock.Boot[:])
	le.PutUint64(b[48:], uint64(clock.SinceBoot))
	le.PutUint64(b[56:], uint64(clock.At.UnixNano()))
	le.PutUint32(b[offChecksum:], disk.Checksum(b[:offChecksum]))
	for i := range states {
		b = append(b, states[i].encode()...)
	}
	return b
}

func (s *State) encode() []byte {
	b := make([]byte, StateSize)
	le.PutUint64(b[8:], s.Gen)
	copy(b[16:], s.Volume[:])
	copy(b[32:], s.Root[:])
	le.PutUint64(b[64:], uint64(s.Size))
	le.PutUint64(b[72:], uint64(s.Logical))
	le.PutUint64(b[80:], uint64(s.Settled.UnixNano()))
	le.PutUint64(b[88:], uint64(s.At.UnixNano()))
	le.PutUint32(b, disk.Checksum(b[4:]))
	return b
}

// Decode returns the states that are whole, in order of volume and generation, and the damage to
// others, each a disk.CorruptError. The clock is the zero value if the header is damaged.
func Decode(store uuid.UUID, b []byte) (clock Clock, states []State, damage []*disk.CorruptError) {
	bad := func(off int, format string, args ...any) {
		damage = append(damage, &disk.CorruptError{File: File, Offset: int64(off), Object: "history", Err: fmt.Errorf(format, args...)})
	}
	n, err := decodeHeader(store, b)
	if err != nil {
		bad(0, "header: %w", err)
		n = max(0, len(b)-HeaderSize) / StateSize // the states have checksums of their own
	} else {
		clock = Clock{uuid.UUID(b[32:48]), time.Duration(le.Uint64(b[48:])), time.Unix(0, int64(le.Uint64(b[56:]))).UTC()}
	}
	var last *State
	for i := range n {
		off := HeaderSize + i*StateSize
		if off+StateSize > len(b) {
			bad(off, "the file ends after %d bytes, before %d of its %d states", len(b), n-i, n)
			break
		}
		s, err := decodeState(b[off : off+StateSize])
		if err == nil && last != nil && !last.before(s) {
			err = errors.New("it is out of order")
		}
		if err != nil {
			bad(off, "state %d: %w", i, err)
			continue
		}
		states = append(states, *s)
		last = s
	}
	if end := HeaderSize + n*StateSize; err == nil && len(b) > end {
		bad(end, "%d bytes behind the last state", len(b)-end)
	}
	return clock, states, damage
}

func decodeHeader(store uuid.UUID, b []byte) (states int, err error) {
	if len(b) < HeaderSize {
		return 0, fmt.Errorf("truncated to %d bytes", len(b))
	}
	if string(b[:8]) != magic {
		return 0, errors.New("no magic")
	}
	if got, want := disk.Checksum(b[:offChecksum]), le.Uint32(b[offChecksum:]); got != want {
		return 0, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	if v := le.Uint32(b[8:]); v != version {
		return 0, fmt.Errorf("%w: version %d", disk.ErrVersion, v)
	}
	if id := uuid.UUID(b[16:32]); id != store {
		return 0, fmt.Errorf("it is of the store %v", id)
	}
	return int(le.Uint32(b[12:])), nil
}

func decodeState(b []byte) (*State, error) {
	if got, want := disk.Checksum(b[4:]), le.Uint32(b); got != want {
		return nil, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	s := &State{
		Gen: le.Uint64(b[8:]), Volume: uuid.UUID(b[16:32]), Root: merkle.Hash(b[32:64]),
		Size: int64(le.Uint64(b[64:])), Logical: int64(le.Uint64(b[72:])),
		Settled: time.Unix(0, int64(le.Uint64(b[80:]))).UTC(), At: time.Unix(0, int64(le.Uint64(b[88:]))).UTC(),
	}
	if s.Size <= 0 || s.Size > disk.MaxVolumeSize || s.Logical < 0 || s.Root.IsZero() {
		return nil, fmt.Errorf("size %d, %d bytes that are not holes, root %v", s.Size, s.Logical, s.Root)
	}
	return s, nil
}

// before reports whether s comes before o in the file.
func (s *State) before(o *State) bool {
	return cmp.Or(slices.Compare(s.Volume[:], o.Volume[:]), cmp.Compare(s.Gen, o.Gen)) < 0
}
