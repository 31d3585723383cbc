package format

import "encoding/binary"

// RefBlock returns the offset of the refcount block of an entry of the refcount table, 0 if there is
// none.
func (g *Geometry) RefBlock(e uint64, fileSize int64) (int64, error) {
	if e == 0 {
		return 0, nil
	}
	return int64(e), g.CheckTable("refcount block", e, g.ClusterSize(), fileSize)
}

// Refcount returns refcount i of a refcount block.
func (g *Geometry) Refcount(block []byte, i int64) uint64 {
	switch g.RefcountBits {
	case 3:
		return uint64(block[i])
	case 4:
		return uint64(binary.BigEndian.Uint16(block[i*2:]))
	case 5:
		return uint64(binary.BigEndian.Uint32(block[i*4:]))
	case 6:
		return binary.BigEndian.Uint64(block[i*8:])
	}
	at, shift, mask := g.bits(i)
	return uint64(block[at] >> shift & mask)
}

// PutRefcount replaces refcount i of a refcount block. v is at most MaxRefcount.
func (g *Geometry) PutRefcount(block []byte, i int64, v uint64) {
	switch g.RefcountBits {
	case 3:
		block[i] = byte(v)
	case 4:
		binary.BigEndian.PutUint16(block[i*2:], uint16(v))
	case 5:
		binary.BigEndian.PutUint32(block[i*4:], uint32(v))
	case 6:
		binary.BigEndian.PutUint64(block[i*8:], v)
	default:
		at, shift, mask := g.bits(i)
		block[at] = block[at]&^(mask<<shift) | byte(v)<<shift
	}
}

// bits is where a refcount of less than a byte is: the least significant bits of a byte come first.
func (g *Geometry) bits(i int64) (at int64, shift uint, mask byte) {
	bit := i << g.RefcountBits
	return bit / 8, uint(bit % 8), byte(1<<(1<<g.RefcountBits) - 1)
}

// MaxRefcount is the largest refcount.
func (g *Geometry) MaxRefcount() uint64 { return 1<<(1<<g.RefcountBits) - 1 }
