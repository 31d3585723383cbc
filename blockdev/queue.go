package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/zoned/zone"
	"varve/objstore/failpoint"
	"varve/uring"
	"varve/uring/queue"
)

// ublkQueue is the driver's end of one hardware queue: the io descriptors that it writes, and the
// fetches and commits that it takes.
type ublkQueue struct {
	dev  *Device
	id   uint16
	desc []byte // the io descriptors, mapped; the driver writes them
	mem  []byte // plain copy: a buffer of maxIO bytes for each tag, which the driver copies from and to
}

var (
	_ queue.Driver = (*ublkQueue)(nil)
	_ queue.Copier = (*ublkQueue)(nil)
)

// openQueue makes the driver's end of a queue on the queue's ring.
func (d *Device) openQueue(id int, ring uring.Ring) (queue.Driver, error) {
	q := &ublkQueue{dev: d, id: uint16(id)}
	if d.has(_UBLK_F_AUTO_BUF_REG) {
		if err := ring.RegisterBuffersSparse(uint32(d.depth)); err != nil {
			return nil, err
		}
	}
	page := os.Getpagesize()
	stride := roundUp(_UBLK_MAX_QUEUE_DEPTH*sizeofIODesc, page)
	var err error
	q.desc, err = unix.Mmap(int(d.char.Fd()), int64(id*stride), roundUp(d.depth*sizeofIODesc, page),
		unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map io descriptors of queue %d: %w", id, err)
	}
	if d.transfer == plainCopy {
		n := d.depth * d.maxIO // only touched pages take memory
		q.mem, err = unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("map %d bytes for copies: %w", n, err), unix.Munmap(q.desc))
		}
	}
	return q, nil
}

// Close implements queue.Driver. It always unmaps the descriptors, since the mapping keeps the
// character device open.
func (q *ublkQueue) Close(idle bool) error {
	err := unix.Munmap(q.desc)
	if q.mem != nil && idle {
		err = errors.Join(err, unix.Munmap(q.mem))
	}
	return err
}

// Fetch implements queue.Driver: UBLK_U_IO_FETCH_REQ.
func (q *ublkQueue) Fetch(sqe *uring.SQE, tag uint16) {
	q.command(sqe, tag, _UBLK_U_IO_FETCH_REQ, -1)
}

// Commit implements queue.Driver: UBLK_U_IO_COMMIT_AND_FETCH_REQ with the full length or an errno,
// never a short count, which the driver would take as complete success (__ublk_complete_rq in
// drivers/block/ublk_drv.c, Linux 7.3).
func (q *ublkQueue) Commit(sqe *uring.SQE, tag uint16, r *queue.Request, err error) {
	result := int32(min(r.Len, 1<<30))
	if err != nil {
		result = errnoOf(err)
	}
	q.command(sqe, tag, _UBLK_U_IO_COMMIT_AND_FETCH_REQ, result)
	if err == nil && r.Op == queue.OpZoneAppend {
		(*ublksrv_io_cmd)(unsafe.Pointer(&sqe.Cmd()[0])).addr = uint64(r.Appended) >> sectorShift
	}
}

func (q *ublkQueue) command(sqe *uring.SQE, tag uint16, op uint32, result int32) {
	sqe.UringCmd(queue.DriverFile, op)
	sqe.Flags = uring.IOSQE_FIXED_FILE
	c := (*ublksrv_io_cmd)(unsafe.Pointer(&sqe.Cmd()[0]))
	c.q_id, c.tag, c.result = q.id, tag, result
	if q.mem != nil {
		c.addr = uring.Address(q.buffer(tag))
	}
	sqe.Addr = q.dev.autoReg(tag)
}

// buffer returns the memory of a tag in plain copy.
func (q *ublkQueue) buffer(tag uint16) []byte {
	n := q.dev.maxIO
	return q.mem[int(tag)*n : (int(tag)+1)*n]
}

// Describe implements queue.Driver: it reads the io descriptor. STOP_DEV ends fetches with ENODEV.
func (q *ublkQueue) Describe(tag uint16, res int32, r *queue.Request) error {
	if res != 0 {
		if errno := unix.Errno(-res); errno != unix.ENODEV {
			return fmt.Errorf("%w: %w", queue.ErrBroken, errno)
		}
		return queue.ErrGone
	}
	d := (*ublksrv_io_desc)(unsafe.Pointer(&q.desc[int(tag)*sizeofIODesc]))
	flags := d.op_flags
	r.Off, r.Len = int64(d.start_sector)<<sectorShift, int(d.nr_sectors)<<sectorShift
	r.FUA, r.NoUnmap = flags&_UBLK_IO_F_FUA != 0, flags&_UBLK_IO_F_NOUNMAP != 0
	switch {
	case q.mem != nil:
		r.Mapped(q.buffer(tag))
	case q.dev.transfer == userCopy || flags&_UBLK_IO_F_NEED_REG_BUF != 0:
		r.Copied()
	default:
		r.Registered(0)
	}
	switch flags & 0xff {
	case _UBLK_IO_OP_READ:
		r.Op = queue.OpRead
	case _UBLK_IO_OP_WRITE:
		r.Op = queue.OpWrite
	case _UBLK_IO_OP_FLUSH:
		r.Op, r.Len = queue.OpFlush, 0
		if err := failpoint.Err(failpoint.QueueFails); err != nil {
			return fmt.Errorf("%w: %w", queue.ErrBroken, err)
		}
		return nil
	case _UBLK_IO_OP_DISCARD:
		r.Op = queue.OpDiscard
	case _UBLK_IO_OP_WRITE_ZEROES:
		r.Op = queue.OpWriteZeroes
	case _UBLK_IO_OP_ZONE_APPEND:
		r.Op = queue.OpZoneAppend
	default:
		return q.describeZoned(d, r)
	}
	if r.HasData() && r.Len > q.dev.maxIO || !q.within(d) && !q.withinNow(d) {
		return fmt.Errorf("%w: %v of %d sectors at %d of %d", ErrInvalid, r.Op, d.nr_sectors, d.start_sector, q.dev.size.Load()>>sectorShift)
	}
	return nil
}

// describeZoned reads the io descriptor of what is asked of zones, which has no sectors. EOPNOTSUPP
// is for all that this varve does not know.
func (q *ublkQueue) describeZoned(d *ublksrv_io_desc, r *queue.Request) error {
	r.Len = 0
	switch d.op_flags & 0xff {
	case _UBLK_IO_OP_REPORT_ZONES:
		r.Op, r.Len = queue.OpZoneReport, int(d.nr_sectors)*zone.DescriptorSize
	case _UBLK_IO_OP_ZONE_RESET:
		r.Op = queue.OpZoneReset
	case _UBLK_IO_OP_ZONE_RESET_ALL:
		r.Op = queue.OpZoneResetAll
	case _UBLK_IO_OP_ZONE_OPEN:
		r.Op = queue.OpZoneOpen
	case _UBLK_IO_OP_ZONE_CLOSE:
		r.Op = queue.OpZoneClose
	case _UBLK_IO_OP_ZONE_FINISH:
		r.Op = queue.OpZoneFinish
	default:
		return unix.EOPNOTSUPP
	}
	if r.Len > q.dev.maxIO || d.start_sector >= uint64(q.dev.size.Load())>>sectorShift {
		return fmt.Errorf("%w: %v of %d zones at sector %d", ErrInvalid, r.Op, d.nr_sectors, d.start_sector)
	}
	return nil
}

// within reports whether a request has sectors, all of them on the device.
func (q *ublkQueue) within(d *ublksrv_io_desc) bool {
	n, end := uint64(d.nr_sectors), uint64(q.dev.size.Load())>>sectorShift
	return n != 0 && n <= end && d.start_sector <= end-n
}

// withinNow is within for a device that another process may have resized.
func (q *ublkQueue) withinNow(d *ublksrv_io_desc) bool {
	q.dev.learnSize()
	return q.within(d)
}

// CopyIn implements queue.Copier by user copy.
func (q *ublkQueue) CopyIn(tag uint16, p []byte, off int) error {
	for len(p) > 0 {
		n, err := unix.Pread(q.dev.charFD, p, userCopyPos(q.id, tag, off))
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("copy from request: %w", err)
		}
		n = max(n, 0)
		p, off = p[n:], off+n
	}
	return nil
}

// CopyOut implements queue.Copier by user copy.
func (q *ublkQueue) CopyOut(tag uint16, p []byte, off int) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(q.dev.charFD, p, userCopyPos(q.id, tag, off))
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("copy to request: %w", err)
		}
		n = max(n, 0)
		p, off = p[n:], off+n
	}
	return nil
}
