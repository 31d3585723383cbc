package blockdev

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// setUp makes what the queue works with, on the thread that will: the ring belongs to it.
func (q *queue) setUp() error {
	d := q.dev
	entries := uint32(max(2*d.depth, 64))
	ring, err := uring.New(uring.Options{Entries: entries, SingleIssuer: true, DeferTaskrun: true, CoopTaskrun: true})
	if err != nil {
		return fmt.Errorf("set up queue ring: %w", err)
	}
	q.ring = ring
	files := []int32{charFile: int32(d.char.Fd()), zeroFile: int32(d.zero.Fd())}
	if t, ok := d.target.(FileTarget); ok {
		for _, fd := range t.Files() {
			files = append(files, int32(fd))
		}
	}
	q.fixed = files[targetFile:]
	if err := ring.RegisterFiles(files); err != nil {
		return err
	}
	if d.has(_UBLK_F_AUTO_BUF_REG) {
		if err := ring.RegisterBuffersSparse(uint32(d.depth)); err != nil {
			return err
		}
	}
	page := os.Getpagesize()
	stride := roundUp(_UBLK_MAX_QUEUE_DEPTH*sizeofIODesc, page)
	q.desc, err = unix.Mmap(int(d.char.Fd()), int64(int(q.id)*stride), roundUp(d.depth*sizeofIODesc, page),
		unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map io descriptors of queue %d: %w", q.id, err)
	}
	if d.transfer == plainCopy {
		mem, err := anonymous(d.depth * d.maxIO)
		if err != nil {
			return err
		}
		q.mapped = append(q.mapped, mem)
	}
	q.cqes = make([]uring.CQE, 2*d.depth)
	q.back.done = make([]uint16, 0, d.depth)
	q.back.spare = make([]uint16, 0, d.depth)
	return q.makeSlots()
}

func (q *queue) makeSlots() error {
	d := q.dev
	q.slots = make([]slot, d.depth)
	for i := range q.slots {
		s := &q.slots[i]
		s.tag = uint16(i)
		s.handler = d.target.NewHandler()
		s.req.secs = make([]uring.Secondary, 0, 4)
		s.req.zeros = make([]span, 0, 4)
		s.req.fixed = q.fixed
		s.req.give = func(p []byte) error { return q.pwrite(s, p, 0) }
		if d.transfer == plainCopy {
			s.bounce = q.mapped[0][i*d.maxIO : (i+1)*d.maxIO]
			s.req.give = func(p []byte) error { copy(s.bounce, p); return nil }
		}
		var err error
		if s.fused, err = uring.NewFused(s.tag, uring.FusedOptions{MaxSecondaries: maxSecondaries}); err != nil {
			return err
		}
	}
	return nil
}

// fetchAll hands every tag to the driver. START_DEV waits for that.
func (q *queue) fetchAll() error {
	for i := range q.slots {
		s := &q.slots[i]
		if err := q.command(s, _UBLK_U_IO_FETCH_REQ, -1); err != nil {
			return err
		}
		s.move(slotKernel)
	}
	if err := q.armWake(); err != nil {
		return err
	}
	// The driver answers a fetch that it does not like at once.
	for end := time.Now().Add(quickCommand); ; time.Sleep(shortPause) {
		err := q.ring.SubmitAndWait(0, uring.WaitBusy)
		if err == nil {
			return nil
		}
		if !uring.Transient(err) || time.Now().After(end) {
			return fmt.Errorf("fetch: %w", err)
		}
	}
}

// tearDown gives everything back. Secondaries are in flight only when the ring has failed; the kernel finishes
// them into pages that it holds by itself, or into memory that is then left mapped.
func (q *queue) tearDown() error {
	var errs []error
	if q.ring != nil {
		errs = append(errs, q.ring.Close())
	}
	if q.desc != nil {
		errs = append(errs, unix.Munmap(q.desc))
	}
	if q.inIO == 0 && q.inWork == 0 {
		errs = append(errs, q.unmapMemory())
	}
	q.back.end(q.count)
	errs = append(errs, q.wake.close())
	if err := errors.Join(errs...); err != nil {
		q.dev.log.Error("queue closed badly", slog.Int("queue", int(q.id)), slog.Any("err", err))
		return err
	}
	return nil
}
