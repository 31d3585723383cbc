package lincheck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// CellSize in bytes: requests begin and end at a multiple of it.
const CellSize = 64

// Value says which write a cell was written by; 0: zeroes, as in the beginning.
type Value uint64

func value(client int, seq uint64) Value { return Value(uint64(client+1)<<40 | seq) }

func (v Value) String() string {
	if v == 0 {
		return "zero"
	}
	return fmt.Sprintf("%d.%d", v>>40-1, v&(1<<40-1))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A cell with a value:
//
//	 0  value u64
//	 8  offset on the disk in bytes, u64
//	16  the value again and again
//	60  CRC-32C of bytes 0 to 59
const cellSum = CellSize - 4

// fill writes a value into every cell of p, which lies at off.
func fill(p []byte, off int64, v Value) {
	for at := 0; at < len(p); at += CellSize {
		c := p[at : at+CellSize]
		if v == 0 {
			clear(c)
			continue
		}
		for i := 0; i < cellSum; i++ {
			c[i] = byte(v >> (i % 8 * 8))
		}
		binary.LittleEndian.PutUint64(c[8:], uint64(off)+uint64(at))
		binary.LittleEndian.PutUint32(c[cellSum:], crc32.Checksum(c[:cellSum], castagnoli))
	}
}

var zeroCell [CellSize]byte

// decode returns the value of every cell of p.
func decode(p []byte, off int64) ([]Value, error) {
	values := make([]Value, 0, len(p)/CellSize)
	for at := 0; at < len(p); at += CellSize {
		c := p[at : at+CellSize]
		switch where := binary.LittleEndian.Uint64(c[8:]); {
		case string(c) == string(zeroCell[:]):
			values = append(values, 0)
		case binary.LittleEndian.Uint32(c[cellSum:]) != crc32.Checksum(c[:cellSum], castagnoli):
			return nil, fmt.Errorf("at byte %d: %w: % x", off+int64(at), errTorn, c)
		case where != uint64(off)+uint64(at):
			return nil, fmt.Errorf("at byte %d: %w %d", off+int64(at), errElsewhere, where)
		default:
			values = append(values, Value(binary.LittleEndian.Uint64(c)))
		}
	}
	return values, nil
}

var (
	errTorn      = errors.New("bytes that no write has written together")
	errElsewhere = errors.New("what was written at byte")
)
