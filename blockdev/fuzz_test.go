package blockdev

import (
	"testing"

	"varve/uring/queue"
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
		q := unitQueue(size, zeroCopy)
		*q.descriptor() = ublksrv_io_desc{op_flags: flags, start_sector: sector, nr_sectors: sectors}
		r := new(queue.Request)
		if q.Describe(0, 0, r) != nil {
			return
		}
		if r.Op == queue.OpFlush {
			if r.Len != 0 {
				t.Errorf("a flush of %d bytes", r.Len)
			}
			return
		}
		if r.Off < 0 || r.Len <= 0 || r.Off > size-int64(r.Len) || r.Off%512 != 0 || r.Len%512 != 0 || r.HasData() && r.Len > q.dev.maxIO {
			t.Errorf("flags %#x, %d sectors at %d: %v of %d bytes at %d", flags, sectors, sector, r.Op, r.Len, r.Off)
		}
	})
}
