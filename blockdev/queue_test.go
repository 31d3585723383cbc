package blockdev

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"varve/uring"
	"varve/uring/queue"
)

// unitQueue is the driver's end of a queue of one tag, whose descriptor the test writes.
func unitQueue(size int64, mode transferMode) *ublkQueue {
	d := &Device{maxIO: 1 << 20, depth: 1, transfer: mode}
	if mode == zeroCopy {
		d.flags = _UBLK_F_AUTO_BUF_REG
	}
	d.size.Store(size)
	q := &ublkQueue{dev: d, id: 3, desc: make([]byte, sizeofIODesc)}
	if mode == plainCopy {
		q.mem = make([]byte, d.maxIO)
	}
	return q
}

func (q *ublkQueue) descriptor() *ublksrv_io_desc {
	return (*ublksrv_io_desc)(unsafe.Pointer(&q.desc[0]))
}

// Requests outside of the disk, and those that nobody asked us to serve, are errors.
func TestDescribeBadRequests(t *testing.T) {
	q := unitQueue(1<<20, zeroCopy)
	for _, c := range []struct {
		op      uint32
		sector  uint64
		sectors uint32
		want    int32
	}{
		{_UBLK_IO_OP_READ, 2048, 1, -int32(unix.EIO)},
		{_UBLK_IO_OP_READ, 2047, 2, -int32(unix.EIO)},
		{_UBLK_IO_OP_READ, 0, 0, -int32(unix.EIO)},
		{_UBLK_IO_OP_WRITE, 1 << 60, 1, -int32(unix.EIO)},
		{16, 0, 1, -int32(unix.EOPNOTSUPP)},
		{_UBLK_IO_OP_ZONE_APPEND, 2048, 1, -int32(unix.EIO)},
		{_UBLK_IO_OP_ZONE_RESET, 2048, 0, -int32(unix.EIO)},
		{_UBLK_IO_OP_REPORT_ZONES, 2048, 1, -int32(unix.EIO)},
		{_UBLK_IO_OP_REPORT_ZONES, 0, 1 << 24, -int32(unix.EIO)},
		{_UBLK_IO_OP_REPORT_ZONES, 0, 1, 0},
		{_UBLK_IO_OP_ZONE_RESET_ALL, 0, 0, 0},
		{_UBLK_IO_OP_READ, 2047, 1, 0},
	} {
		d := q.descriptor()
		d.op_flags, d.start_sector, d.nr_sectors = c.op, c.sector, c.sectors
		if got := errnoOf(q.Describe(0, 0, new(queue.Request))); got != c.want {
			t.Errorf("op %d of %d at %d: %d, want %d", c.op, c.sectors, c.sector, got, c.want)
		}
	}
}

// What a commit tells the driver: the full length or an errno, and where the tag's buffer is.
func TestCommit(t *testing.T) {
	for _, mode := range []transferMode{zeroCopy, plainCopy} {
		q := unitQueue(1<<20, mode)
		q.dev.depth = 1
		for err, want := range map[error]int32{nil: 4096, unix.ENOSPC: -int32(unix.ENOSPC)} {
			var sqe uring.SQE
			q.Commit(&sqe, 0, &queue.Request{Op: queue.OpWrite, Len: 4096}, err)
			cmd := (*ublksrv_io_cmd)(unsafe.Pointer(&sqe.Cmd()[0]))
			if sqe.Off != _UBLK_U_IO_COMMIT_AND_FETCH_REQ || sqe.Flags != uring.IOSQE_FIXED_FILE || cmd.q_id != 3 || cmd.tag != 0 || cmd.result != want {
				t.Errorf("commit with %v: %+v of %+v, want result %d", err, cmd, sqe, want)
			}
			if mode == plainCopy && cmd.addr != uring.Address(q.mem) || mode == zeroCopy && (cmd.addr != 0 || sqe.Addr != (ublk_auto_buf_reg{}).sqeAddr()) {
				t.Errorf("commit with %v: buffer %#x, entry's address %#x", err, cmd.addr, sqe.Addr)
			}
		}
	}
}

// The answer of an append says in sectors where the bytes are; that of anything else, and of an append
// that has failed, leaves the field zero, without which the driver refuses the commit.
func TestCommitAppend(t *testing.T) {
	q := unitQueue(1<<20, zeroCopy)
	for _, c := range []struct {
		op   queue.Op
		err  error
		want uint64
	}{
		{queue.OpZoneAppend, nil, 24},
		{queue.OpZoneAppend, unix.EIO, 0},
		{queue.OpWrite, nil, 0},
	} {
		var sqe uring.SQE
		q.Commit(&sqe, 0, &queue.Request{Op: c.op, Len: 4096, Appended: 24 * 512}, c.err)
		if got := (*ublksrv_io_cmd)(unsafe.Pointer(&sqe.Cmd()[0])).addr; got != c.want {
			t.Errorf("%v, %v: the address %d, want %d", c.op, c.err, got, c.want)
		}
	}
}
