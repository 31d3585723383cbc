package blockdev

import (
	"testing"

	"varve/blockdev/target/zoned/zone"
	"varve/uring/queue"
)

// An io descriptor of any bytes becomes a request within the device, or an error.
func FuzzDescriptor(f *testing.F) {
	f.Add(uint32(_UBLK_IO_OP_READ), uint64(0), uint32(8))
	f.Add(uint32(_UBLK_IO_OP_WRITE)|_UBLK_IO_F_FUA, uint64(1<<20), uint32(1))
	f.Add(uint32(_UBLK_IO_OP_DISCARD), ^uint64(0), ^uint32(0))
	f.Add(uint32(_UBLK_IO_OP_WRITE_ZEROES), uint64(1)<<55, uint32(1))
	f.Add(uint32(_UBLK_IO_OP_FLUSH), ^uint64(0), uint32(0))
	f.Add(uint32(_UBLK_IO_OP_REPORT_ZONES), uint64(2048), uint32(64))
	f.Add(uint32(_UBLK_IO_OP_ZONE_RESET), uint64(1)<<55, uint32(1))
	f.Add(uint32(77), uint64(0), uint32(0))
	const size = 64 << 20
	f.Fuzz(func(t *testing.T, flags uint32, sector uint64, sectors uint32) {
		q := unitQueue(size, zeroCopy)
		*q.descriptor() = ublksrv_io_desc{op_flags: flags, start_sector: sector, nr_sectors: sectors}
		r := new(queue.Request)
		if q.Describe(0, 0, r) != nil {
			return
		}
		inside := r.Off >= 0 && r.Off <= size-int64(r.Len) && r.Off%512 == 0
		switch r.Op {
		case queue.OpFlush:
			inside = r.Len == 0
		case queue.OpZoneReport: // of zones from the offset on
			inside = r.Off >= 0 && r.Off < size && r.Off%512 == 0 && r.Len >= 0 && r.Len%zone.DescriptorSize == 0 && r.Len <= q.dev.maxIO
		case queue.OpZoneOpen, queue.OpZoneClose, queue.OpZoneFinish, queue.OpZoneReset, queue.OpZoneResetAll:
			inside = inside && r.Off < size && r.Len == 0
		default:
			inside = inside && r.Len > 0 && r.Len%512 == 0 && (!r.HasData() || r.Len <= q.dev.maxIO)
		}
		if !inside {
			t.Errorf("flags %#x, %d sectors at %d: %v of %d bytes at %d", flags, sectors, sector, r.Op, r.Len, r.Off)
		}
	})
}
