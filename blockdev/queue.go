package blockdev

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"varve/objstore/failpoint"
	"varve/uring"
)

// The slots of the ring's table of files; those of a FileTarget follow.
const (
	charFile   = 0 // /dev/ublkcN
	zeroFile   = 1 // /dev/zero
	targetFile = 2
)

// maxSecondaries of one request are in flight together; a plan with more goes in turns.
const maxSecondaries = 64

// drainPoll is how long a queue that has lost a fetch waits for the others before it ends.
const drainPoll = 50 * time.Millisecond

// shortPause is for a kernel that is short of memory.
const shortPause = time.Millisecond

// queue serves one hardware queue of a device. All fields belong to the thread of run, but for back and quit.
type queue struct {
	dev     *Device
	id      uint16
	ring    uring.Ring
	desc    []byte // the io descriptors, mapped; the driver writes them
	slots   []slot
	cqes    []uring.CQE
	wake    wakeup
	fixed   []int32  // the target's files that are in the ring's table
	mapped  [][]byte // memory for copies: all that there is
	buffers [][]byte // of it, the buffers that no slot has

	inIO     int // slots in slotIO
	inWork   int // slots in slotWorker
	dead     int // slots in slotDead
	owned    int // slots that are neither the driver's nor dead
	draining bool
	count    Stats
	logged   time.Time // when a failed request was last logged
	muted    uint64    // failed requests since

	back mailbox
}

// mailbox is how other goroutines reach a queue; wakeup makes the queue look into it.
type mailbox struct {
	sync.Mutex
	done  []uint16       // tags whose Work has returned
	asks  []chan<- Stats // who wants to know the counters
	quit  bool           // end without waiting for the driver
	ended bool           // the queue is gone
	final Stats          // its last counters
	spare []uint16       // the other half of done
}

// run serves until the driver has taken the fetches back, or the ring fails. ready is told once how the set-up
// went. The goroutine keeps its thread to the end: the driver lets only the task that fetched a tag commit it.
func (q *queue) run(ready chan<- error) error {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	err := q.setUp()
	if err == nil {
		err = q.fetchAll()
	}
	ready <- err
	if err == nil {
		err = q.serve()
	}
	return errors.Join(err, q.tearDown())
}

// command queues a fetch or commit of the slot's tag.
func (q *queue) command(s *slot, op uint32, result int32) error {
	sqe, err := uring.NextSQE(q.ring)
	if err != nil {
		return err
	}
	sqe.UringCmd(charFile, op)
	sqe.Flags = uring.IOSQE_FIXED_FILE
	sqe.UserData = uint64(uring.Pack(uring.KindFetch, 0, 0, s.tag))
	c := (*ublksrv_io_cmd)(unsafe.Pointer(&sqe.Cmd()[0]))
	c.q_id, c.tag, c.result = q.id, s.tag, result
	if q.dev.transfer == plainCopy {
		c.addr = uring.Address(s.bounce)
	}
	sqe.Addr = q.dev.autoReg(s.tag)
	return nil
}

// serve is the loop: one enter submits what the last round queued and waits for the next.
func (q *queue) serve() error {
	for !q.quits() {
		if err := q.wait(); err != nil {
			if errors.Is(err, uring.ErrTimeout) {
				return nil
			}
			if !uring.Transient(err) {
				return fmt.Errorf("queue %d: %w", q.id, err)
			}
			// What the kernel did not take is still queued. A device must not fail for want of memory: others may need it to
			// get some.
			time.Sleep(shortPause)
		}
		for n := len(q.cqes); n == len(q.cqes); {
			n = q.ring.Reap(q.cqes)
			for i := range q.cqes[:n] {
				if err := q.take(&q.cqes[i]); err != nil {
					return fmt.Errorf("queue %d: %w", q.id, err)
				}
			}
		}
	}
	_, err := q.ring.Submit()
	return err
}

// wait submits and waits for one completion. How, is what UBLK.md measured: a thread whose own I/O is under way
// keeps its place with Go's scheduler; one that waits for a worker must not, or the worker waits for it.
func (q *queue) wait() error {
	switch {
	case q.draining && q.owned == 0:
		return q.ring.SubmitAndWaitTimeout(1, drainPoll)
	case q.inWork > 0:
		return q.ring.SubmitAndWait(1, uring.WaitHandoff)
	case q.inIO > 0:
		return q.ring.SubmitAndWait(1, uring.WaitBusy)
	}
	return q.ring.SubmitAndWait(1, uring.WaitIdle)
}

// quits says whether nothing is left to serve.
func (q *queue) quits() bool {
	return q.dead == len(q.slots) || q.draining && q.owned == 0 && q.back.isQuit()
}

// take looks at one completion. An error ends the queue.
func (q *queue) take(c *uring.CQE) error {
	u := uring.UserData(c.UserData)
	switch u.Kind() {
	case uring.KindFetch:
		return q.fetched(&q.slots[u.Tag()], c.Res)
	case uring.KindSecondary:
		s := &q.slots[u.Tag()]
		if !s.fused.Complete(q.ring, u, c.Res) {
			return nil
		}
		return q.transferred(s, s.fused.Err())
	case uring.KindPoll:
		return q.woken(c.Res)
	default: // a zeroed entry, which is a no-op
		return nil
	}
}

// fetched: a request has come for the slot, or the driver has taken the fetch back.
func (q *queue) fetched(s *slot, res int32) error {
	if res != 0 {
		s.move(slotDead)
		q.dead++
		q.draining = true
		if errno := unix.Errno(-res); errno != unix.ENODEV {
			return fmt.Errorf("fetch of tag %d: %w", s.tag, errno)
		}
		return nil
	}
	s.move(slotOurs)
	q.owned++
	if err := q.describe(s); err != nil {
		return q.answer(s, err)
	}
	if s.req.Op == OpFlush {
		if err := failpoint.Err(failpoint.QueueFails); err != nil {
			return err
		}
	}
	a, err := q.start(s)
	return q.act(s, a, err)
}

// describe reads the io descriptor.
func (q *queue) describe(s *slot) error {
	d := (*ublksrv_io_desc)(unsafe.Pointer(&q.desc[int(s.tag)*sizeofIODesc]))
	flags := d.op_flags
	r := &s.req
	r.reset()
	r.Off, r.Len = int64(d.start_sector)<<sectorShift, int(d.nr_sectors)<<sectorShift
	r.FUA, r.NoUnmap = flags&_UBLK_IO_F_FUA != 0, flags&_UBLK_IO_F_NOUNMAP != 0
	s.copies = q.dev.transfer != zeroCopy || flags&_UBLK_IO_F_NEED_REG_BUF != 0
	switch flags & 0xff {
	case _UBLK_IO_OP_READ:
		r.Op = OpRead
		q.count.Reads++
		q.count.ReadBytes += uint64(r.Len)
	case _UBLK_IO_OP_WRITE:
		r.Op = OpWrite
		q.count.Writes++
		q.count.WriteBytes += uint64(r.Len)
	case _UBLK_IO_OP_FLUSH:
		r.Op, r.Len = OpFlush, 0
		q.count.Flushes++
		return nil
	case _UBLK_IO_OP_DISCARD:
		r.Op = OpDiscard
		q.count.Discards++
	case _UBLK_IO_OP_WRITE_ZEROES:
		r.Op = OpWriteZeroes
		q.count.WriteZeroes++
	default:
		return unix.EOPNOTSUPP
	}
	end := uint64(q.dev.size.Load()) >> sectorShift
	if n := uint64(d.nr_sectors); n == 0 || n > end || d.start_sector > end-n || r.hasData() && r.Len > q.dev.maxIO {
		return fmt.Errorf("%w: %v of %d sectors at %d of %d", ErrInvalid, r.Op, n, d.start_sector, end)
	}
	return nil
}

// act does what a handler wants, until the slot has left our hands.
func (q *queue) act(s *slot, a Action, err error) error {
	for {
		switch {
		case err != nil || a == Answer:
			return q.answer(s, err)
		case a == Again:
			s.req.reset()
			a, err = q.start(s)
		case a == Handoff || a == Await:
			s.move(slotWorker)
			q.inWork++
			q.count.Handoffs++
			if a == Await {
				q.dev.waits <- job{q, s}
			} else {
				q.dev.work <- job{q, s}
			}
			return nil
		default:
			pending, terr := q.transfer(s)
			if pending {
				return nil
			}
			a, err = q.finish(s, terr)
		}
	}
}

// transferred: the secondaries that were in flight are in.
func (q *queue) transferred(s *slot, err error) error {
	s.move(slotOurs)
	q.inIO--
	if err == nil {
		var pending bool
		if pending, err = q.startSecondaries(s); pending {
			return nil
		}
	}
	if err == nil {
		err = q.copyOut(s)
	}
	a, err := q.finish(s, err)
	return q.act(s, a, err)
}

// answer commits the slot: the full length or an errno, never a short count, which the driver would take as
// complete success (trap 1: __ublk_complete_rq, 7.3).
func (q *queue) answer(s *slot, err error) error {
	result := int32(min(s.req.Len, 1<<30))
	if err != nil {
		result = errnoOf(err)
		q.count.Errors++
		q.dev.logError(q, s, err)
	}
	q.giveBuffer(s)
	s.move(slotKernel)
	q.owned--
	return q.command(s, _UBLK_U_IO_COMMIT_AND_FETCH_REQ, result)
}
