package blockdev

import (
	"testing"
	"unsafe"
)

// An io descriptor of any bytes becomes a request within the device, or an error.
func FuzzDescriptor(f *testing.F) {
	f.Add(uint32(_UBLK_IO_OP_READ), uint64(0), uint32(8))
	f.Add(uint32(_UBLK_IO_OP_WRITE)|_UBLK_IO_F_FUA, uint64(1<<20), uint32(1))
	f.Add(uint32(_UBLK_IO_OP_DISCARD), ^uint64(0), ^uint32(0))
	f.Add(uint32(_UBLK_IO_OP_WRITE_ZEROES), uint64(1)<<55, uint32(1))
	f.Add(uint32(_UBLK_IO_OP_FLUSH), ^uint64(0), uint32(0))
	f.Add(uint32(77), uint64(0), uint32(0))
	const size = 64 << 20
	f.Fuzz(func(t *testing.T, flags uint32, sector uint64, sectors uint32) {
		d := &Device{maxIO: 1 << 20}
		d.size.Store(size)
		q := &queue{dev: d, desc: make([]byte, sizeofIODesc), slots: make([]slot, 1)}
		*(*ublksrv_io_desc)(unsafe.Pointer(&q.desc[0])) = ublksrv_io_desc{op_flags: flags, start_sector: sector, nr_sectors: sectors}
		s := &q.slots[0]
		if q.describe(s) != nil {
			return
		}
		r := &s.req
		if r.Op == OpFlush {
			if r.Len != 0 {
				t.Errorf("a flush of %d bytes", r.Len)
			}
			return
		}
		if r.Off < 0 || r.Len <= 0 || r.Off > size-int64(r.Len) || r.Off%512 != 0 || r.Len%512 != 0 || r.hasData() && r.Len > d.maxIO {
			t.Errorf("flags %#x, %d sectors at %d: %v of %d bytes at %d", flags, sectors, sector, r.Op, r.Len, r.Off)
		}
	})
}
