package zone

import "encoding/binary"

// DescriptorSize is that of struct blk_zone (include/uapi/linux/blkzoned.h, Linux 7.3), in bytes:
//
//	0       8        16              24     25          26       32         40         64
//	+-------+--------+---------------+------+-----------+--------+----------+----------+
//	| start | length | write pointer | type | condition |   0    | capacity |    0     |
//	+-------+--------+---------------+------+-----------+--------+----------+----------+
//
// in sectors of 512 bytes and the machine's order of bytes.
const DescriptorSize = 64

// Types of zones, of enum blk_zone_type.
const (
	typeConventional = 1
	typeSequential   = 2 // BLK_ZONE_TYPE_SEQWRITE_REQ
)

// Report fills p with the descriptors of the zones from that of off on, and zeroes after the last
// zone of the disk.
func (s *Set) Report(p []byte, off int64) {
	clear(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := int(off / s.geo.ZoneSize); i < len(s.zones) && len(p) >= DescriptorSize; i++ {
		s.describe(i, p)
		p = p[DescriptorSize:]
	}
}

func (s *Set) describe(i int, p []byte) {
	z, ne := &s.zones[i], binary.NativeEndian
	start, size := uint64(i)*uint64(s.geo.ZoneSize)/sectorSize, uint64(s.geo.ZoneSize)/sectorSize
	ne.PutUint64(p, start)
	ne.PutUint64(p[8:], size)
	pointer, kind := start+uint64(z.written)/sectorSize, typeSequential
	switch z.cond {
	case NotWP:
		pointer, kind = start+size, typeConventional
	case Full:
		pointer = start + size
	case ReadOnly, Offline:
		pointer = ^uint64(0)
	default:
	}
	ne.PutUint64(p[16:], pointer)
	p[24], p[25] = byte(kind), byte(z.cond)
	ne.PutUint64(p[32:], size)
}
