// Package record keeps append-only logs of checksummed frames. The refs of a store and the object
// logs of its open segments are such logs; they define the payload of a frame.
//
// A frame is durable before the next one is written, so a power cut can tear only the last one,
// which was not acknowledged yet. Opening drops a torn last frame. A bad frame is damage if what
// follows proves that it was once whole: another good frame, or the end mark. The mark is written
// when the frame before it is durable, and is overwritten by the next frame. It is not waited for,
// so it may be missing after a power cut.
//
// A log may be kept in several files of the same bytes (copies): a frame counts if any of them has
// it whole, and opening repairs the others.
//
//	header, 64 bytes                      frame, padded to 8 bytes
//	  0  magic "varveLOG"                   0  CRC-32C u32 of the rest, seeded by the header and the offset
//	  8  version u32                        4  payload length u32, bytes
//	 12  kind u32                           8  payload
//	 16  store UUID, 16 bytes
//	 32  number u64: which file of its    end mark, behind the last frame
//	     kind                               0  CRC-32C u32 of the rest, seeded by the header and the offset
//	 40  zeroes                             4  0 u32
//	 60  CRC-32C of bytes 0 to 59
package record

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
)

// Sizes in bytes.
const (
	HeaderSize = 64
	MaxPayload = 64 << 20 // of a frame

	frameHeader = 8
	frameAlign  = 8
	markSize    = 8
)

const magic = "varveLOG"

var le = binary.LittleEndian

// Kind is what the frames of a log contain.
type Kind uint32

// The kinds of logs.
const (
	Refs      Kind = 1
	ObjectLog Kind = 2
)

// ID identifies a log; it is encoded in its header.
type ID struct {
	Kind   Kind
	Store  uuid.UUID
	Number uint64 // which log of its kind
}

func (id ID) header() []byte {
	b := make([]byte, HeaderSize)
	copy(b, magic)
	le.PutUint32(b[8:], disk.Version)
	le.PutUint32(b[12:], uint32(id.Kind))
	copy(b[16:], id.Store[:])
	le.PutUint64(b[32:], id.Number)
	le.PutUint32(b[60:], disk.Checksum(b[:60]))
	return b
}

// isHeader reports whether data begins with the header of some log.
func isHeader(data []byte) bool {
	return len(data) >= HeaderSize && disk.Checksum(data[:60]) == le.Uint32(data[60:])
}

// seed is the checksum of a log's header. It goes into the checksum of each frame, together with
// the offset, so a frame is not valid in another log, or at another offset.
type seed uint32

func (s seed) sum(off int64, body []byte) uint32 {
	var b [8]byte
	le.PutUint64(b[:], uint64(off))
	return disk.UpdateChecksum(disk.UpdateChecksum(uint32(s), b[:]), body)
}

// encode returns the frame at off.
func (s seed) encode(payload []byte, off int64) []byte {
	b := make([]byte, disk.RoundUp(int64(frameHeader+len(payload)), frameAlign))
	le.PutUint32(b[4:], uint32(len(payload)))
	copy(b[frameHeader:], payload)
	le.PutUint32(b, s.sum(off, b[4:frameHeader+len(payload)]))
	return b
}

// decode decodes the frame at off from the beginning of b. It returns the payload, which is part of
// b, and the offset of the next frame.
func (s seed) decode(b []byte, off int64) (payload []byte, next int64, err error) {
	if len(b) < frameHeader {
		return nil, 0, errors.New("truncated frame header")
	}
	n := int64(le.Uint32(b[4:]))
	if n == 0 || n > MaxPayload || frameHeader+n > int64(len(b)) {
		return nil, 0, fmt.Errorf("frame length %d bytes", n)
	}
	body := b[4 : frameHeader+n]
	if got, want := s.sum(off, body), le.Uint32(b); got != want {
		return nil, 0, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	return body[4:], off + disk.RoundUp(frameHeader+n, frameAlign), nil
}

// mark is the end mark of a log whose last frame ends at off.
func (s seed) mark(off int64) []byte {
	b := make([]byte, markSize)
	le.PutUint32(b, s.sum(off, b[4:]))
	return b
}

func (s seed) isMark(b []byte, off int64) bool {
	return le.Uint32(b[4:]) == 0 && le.Uint32(b) == s.sum(off, b[4:markSize])
}
