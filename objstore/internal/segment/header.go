package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
)

// HeaderSize is the length of an encoded Header in bytes.
const HeaderSize = 512

const headerMagic = "varveSEG"

var le = binary.LittleEndian

// Header is the first block of a segment:
//
//	  0  magic "varveSEG"
//	  8  version u32
//	 12  segment ID u32
//	 16  store UUID, 16 bytes
//	 32  capacity u64, bytes
//	 40  footer length u64, bytes; 0 until the segment is sealed
//	 48  closing u64
//	 56  zeroes
//	508  CRC-32C of bytes 0 to 507
type Header struct {
	ID       uint32
	Store    uuid.UUID
	Capacity int64  // bytes; where the footer goes
	Footer   int64  // length in bytes; 0 until the segment is sealed
	Closing  uint64 // see File.Stamp
}

// Encode returns the encoding of h, HeaderSize bytes; the rest of the block is zeroes.
func (h *Header) Encode() []byte {
	b := make([]byte, HeaderSize)
	copy(b, headerMagic)
	le.PutUint32(b[8:], disk.Version)
	le.PutUint32(b[12:], h.ID)
	copy(b[16:], h.Store[:])
	le.PutUint64(b[32:], uint64(h.Capacity))
	le.PutUint64(b[40:], uint64(h.Footer))
	le.PutUint64(b[48:], h.Closing)
	le.PutUint32(b[508:], disk.Checksum(b[:508]))
	return b
}

// DecodeHeader decodes the header of segment id of a store. One of another segment or store is an error.
func DecodeHeader(b []byte, id uint32, store uuid.UUID) (Header, error) {
	switch {
	case len(b) < HeaderSize:
		return Header{}, fmt.Errorf("truncated to %d bytes", len(b))
	case string(b[:8]) != headerMagic:
		return Header{}, errors.New("no segment magic")
	case disk.Checksum(b[:508]) != le.Uint32(b[508:]):
		return Header{}, errors.New("checksum of the header")
	case le.Uint32(b[8:]) != disk.Version:
		return Header{}, fmt.Errorf("%w: segment version %d", disk.ErrVersion, le.Uint32(b[8:]))
	case le.Uint32(b[12:]) != id:
		return Header{}, fmt.Errorf("it is segment %08x", le.Uint32(b[12:]))
	case !bytes.Equal(b[16:32], store[:]):
		return Header{}, fmt.Errorf("it is of store %v", uuid.UUID(b[16:32]))
	}
	h := Header{
		ID: id, Store: store,
		Capacity: int64(le.Uint64(b[32:])), Footer: int64(le.Uint64(b[40:])), Closing: le.Uint64(b[48:]),
	}
	if h.Capacity < disk.BlockSize || h.Capacity%disk.BlockSize != 0 || h.Capacity > disk.BlockSize<<32 || h.Footer < 0 || h.Footer > maxFooter {
		return Header{}, fmt.Errorf("capacity %d and footer length %d bytes", h.Capacity, h.Footer)
	}
	return h, nil
}
