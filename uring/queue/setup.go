package queue

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"varve/uring"
)

// fetchLimit bounds how long a kernel that is short of memory may refuse the first fetches.
const fetchLimit = 10 * time.Second

// setUp makes what the queue works with, on the thread that will: the ring belongs to it.
func (q *Queue) setUp() error {
	o := &q.server.opts
	entries := uint32(max(2*o.Depth, 64))
	newRing := o.NewRing
	if newRing == nil {
		newRing = uring.New
	}
	ring, err := newRing(uring.Options{Entries: entries, SingleIssuer: true, DeferTaskrun: true, CoopTaskrun: true})
	if err != nil {
		return fmt.Errorf("set up queue ring: %w", err)
	}
	q.ring = ring
	q.cqes = make([]uring.CQE, 2*o.Depth)
	if q.part, err = o.NewPart(q); err != nil {
		return err
	}
	q.ownEnd, _ = q.part.(Completer)
	files := []int32{DriverFile: int32(o.File), zeroFile: int32(q.server.zero.Fd())}
	for _, fd := range q.part.Files() {
		files = append(files, int32(fd))
	}
	q.fixed = files[partFile:]
	if err := ring.RegisterFiles(files); err != nil {
		return err
	}
	if q.driver, err = o.Driver(int(q.id), ring); err != nil {
		return err
	}
	q.copier, _ = q.driver.(Copier)
	q.back.done = make([]result, 0, o.Depth)
	q.back.empty = make([]result, 0, o.Depth)
	q.resumed = make([]result, 0, o.Depth)
	return q.makeSlots()
}

func (q *Queue) makeSlots() error {
	q.slots = make([]slot, q.server.opts.Depth)
	for i := range q.slots {
		s := &q.slots[i]
		s.tag = uint16(i)
		s.handler = q.part.NewHandler(s.tag)
		s.req = Request{
			secs: make([]uring.Secondary, 0, 4), zeros: make([]span, 0, 4),
			tag: s.tag, queue: q,
		}
		var err error
		if s.fused, err = uring.NewFused(s.tag, uring.FusedOptions{MaxSecondaries: maxSecondaries}); err != nil {
			return err
		}
	}
	return nil
}

// fetchAll offers every tag to the driver.
func (q *Queue) fetchAll() error {
	for i := range q.slots {
		s := &q.slots[i]
		sqe, err := uring.NextSQE(q.ring)
		if err != nil {
			return err
		}
		q.driver.Fetch(sqe, s.tag)
		sqe.UserData = uint64(uring.Pack(uring.KindFetch, 0, 0, s.tag))
		s.move(slotKernel)
	}
	if err := q.armWake(); err != nil {
		return err
	}
	// The driver completes a fetch that it refuses at once.
	for end := time.Now().Add(fetchLimit); ; time.Sleep(shortPause) {
		err := q.ring.SubmitAndWait(0, uring.WaitBusy)
		if err == nil {
			return nil
		}
		if !uring.Transient(err) || time.Now().After(end) {
			return fmt.Errorf("fetch: %w", err)
		}
	}
}

// tearDown releases everything. Secondaries are in flight only when the ring has failed; the kernel
// finishes them into pages that it holds by itself, or into memory that is then left mapped.
func (q *Queue) tearDown() error {
	var errs []error
	if q.part != nil {
		errs = append(errs, q.closePart())
	}
	if q.ring != nil {
		errs = append(errs, q.ring.Close())
	}
	idle := q.inIO == 0 && q.inWork == 0
	if q.driver != nil {
		errs = append(errs, q.driver.Close(idle))
	}
	if idle {
		errs = append(errs, q.unmapMemory())
	}
	q.back.end(q.count)
	errs = append(errs, q.wake.close())
	if err := errors.Join(errs...); err != nil {
		q.server.log.Error("queue closed badly", slog.Int("queue", int(q.id)), slog.Any("err", err))
		return err
	}
	return nil
}
