package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"varve/uring"
)

// drainPoll is how long a queue that has lost a fetch waits for the others before it ends.
const drainPoll = 50 * time.Millisecond

// shortPause is for a kernel that is short of memory.
const shortPause = time.Millisecond

// Queue serves one queue of a device. All fields belong to the thread of run, but for back.
type Queue struct {
	server  *Server
	id      uint16
	ring    uring.Ring
	driver  Driver
	copier  Copier // of the driver; nil if it is none
	part    Part
	ownEnd  Completer // the part; nil if it is none
	slots   []slot
	cqes    []uring.CQE
	wake    wakeup
	fixed   []int32  // the part's files, which are in the ring's table
	mapped  [][]byte // bounce buffers: all that there are
	buffers [][]byte // of them, those that no request has

	inIO     int  // slots in slotIO
	inWork   int  // slots in slotWorker
	held     int  // slots in slotHeld
	ownIO    int  // entries of the part in flight
	dead     int  // slots in slotDead
	owned    int  // slots that are neither the driver's nor dead
	draining bool // no request comes any more
	quit     bool // what is held is left to a successor
	count    Stats
	logged   time.Time // when a failed request was last logged
	muted    uint64    // failed requests since

	resumed []result // of held requests, by callers on the thread
	back    mailbox
}

// run serves until the driver has taken the fetches back, or the ring fails. ready is told once how
// the set-up went. The goroutine keeps its thread to the end: the driver lets only the task that
// fetched a tag commit it.
func (q *Queue) run(ready chan<- error) error {
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

// serve is the loop: one enter submits what the last round queued and waits for the next.
func (q *Queue) serve() error {
	for !q.quits() {
		if err := q.wait(); err != nil {
			if errors.Is(err, uring.ErrTimeout) {
				return nil
			}
			if !uring.Transient(err) {
				return fmt.Errorf("queue %d: %w", q.id, err)
			}
			// What the kernel did not take is still queued. A device must not fail for want of
			// memory: others may need it to get some.
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

// wait submits and waits for one completion. The mode is what was measured (docs/benchmarks.md): a
// thread whose own I/O is under way keeps its place with Go's scheduler; one that waits for a
// worker must not, or the worker waits for the thread.
func (q *Queue) wait() error {
	switch {
	case q.draining && q.owned == 0:
		return q.ring.SubmitAndWaitTimeout(1, drainPoll)
	case q.inWork > 0 || q.held > 0 && q.ownIO == 0:
		return q.ring.SubmitAndWait(1, uring.WaitHandoff)
	case q.inIO > 0 || q.held > 0:
		return q.ring.SubmitAndWait(1, uring.WaitBusy)
	}
	return q.ring.SubmitAndWait(1, uring.WaitIdle)
}

// quits reports whether nothing is left to serve.
func (q *Queue) quits() bool {
	return q.dead == len(q.slots) || q.draining && q.owned == 0 && q.back.isQuit()
}

// take looks at one completion. An error ends the queue.
func (q *Queue) take(c *uring.CQE) error {
	u := uring.UserData(c.UserData)
	var err error
	switch u.Kind() {
	case uring.KindFetch:
		err = q.fetched(&q.slots[u.Tag()], c.Res)
	case uring.KindSecondary:
		s := &q.slots[u.Tag()]
		switch {
		case s.fused.Complete(q.ring, c):
			err = q.transferred(s, s.fused.Err())
		case c.Flags&uring.IORING_CQE_F_MORE != 0:
			q.sent(s)
		}
	case uring.KindPoll:
		err = q.woken(c.Res)
	case uring.KindOwner:
		err = q.partCompleted(u.Tag(), c)
	default: // a zeroed entry, which is a no-op
	}
	if len(q.resumed) > 0 && err == nil {
		err = q.goOnResumed()
	}
	return err
}

// fetched: a request has come for the slot, or the driver has taken the fetch back.
func (q *Queue) fetched(s *slot, res int32) error {
	s.req.reset()
	s.req.Appended, s.early = 0, false
	err := q.driver.Describe(s.tag, res, &s.req)
	if err == nil {
		s.move(slotOurs)
		q.owned++
		q.count.request(&s.req)
		a, err := q.start(s)
		return q.act(s, a, err)
	}
	gone := errors.Is(err, ErrGone)
	if !gone && !errors.Is(err, ErrBroken) {
		s.move(slotOurs)
		q.owned++
		return q.answer(s, err)
	}
	s.move(slotDead)
	q.dead++
	q.draining = true
	if gone {
		return nil
	}
	return fmt.Errorf("fetch of tag %d: %w", s.tag, err)
}

// act does what a handler wants, until the slot has left our hands.
func (q *Queue) act(s *slot, a Action, err error) error {
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
				q.server.waits <- job{q, s}
			} else {
				q.server.work <- job{q, s}
			}
			return nil
		case a == Hold:
			s.move(slotHeld)
			q.held++
			switch {
			case s.early:
				s.early = false
				return q.goOn(s.resumed)
			case q.quit:
				q.leaveHeld()
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

// goOnResumed continues with what was resumed on the thread, which may resume more.
func (q *Queue) goOnResumed() error {
	for i := 0; i < len(q.resumed); i++ {
		if err := q.goOn(q.resumed[i]); err != nil {
			return err
		}
	}
	q.resumed = q.resumed[:0]
	return nil
}

// goOn takes a request back from a worker, or from the target that held it, and performs its next
// action.
func (q *Queue) goOn(r result) error {
	s := &q.slots[r.tag]
	switch {
	case s.state == slotHeld && r.resumes:
		q.held--
	case s.state == slotWorker && !r.resumes:
		q.inWork--
	case s.state == slotWorker || s.state == slotIO: // the handler will return Hold
		s.early, s.resumed = true, r
		return nil
	default: // left to a successor, in spite of its holder
		return nil
	}
	s.move(slotOurs)
	if q.draining && errors.Is(r.err, context.Canceled) {
		// The wait was given up because the queue ends.
		q.leave(s)
		return nil
	}
	return q.act(s, r.action, r.err)
}

// leave leaves a request to a successor, unanswered.
func (q *Queue) leave(s *slot) {
	s.move(slotDead)
	q.owned--
	q.dead++
}

// answer commits the slot.
func (q *Queue) answer(s *slot, err error) error {
	r := &s.req
	if err == nil && r.HasData() {
		if !r.covered() {
			err = fmt.Errorf("%w: the plan of a %v of %d bytes has a gap", ErrInvalid, r.Op, r.Len)
		} else {
			err = q.handOver(r)
		}
	}
	if err != nil {
		q.count.Errors++
		q.logError(s, err)
	}
	sqe, serr := uring.NextSQE(q.ring)
	if serr != nil {
		return serr
	}
	q.driver.Commit(sqe, s.tag, r, err)
	sqe.UserData = uint64(uring.Pack(uring.KindFetch, 0, 0, s.tag))
	q.returnBuffer(r)
	s.move(slotKernel)
	q.owned--
	return nil
}

// logError logs a failed request, at most one a second for each queue.
func (q *Queue) logError(s *slot, err error) {
	q.muted++
	if now := time.Now(); now.Sub(q.logged) >= time.Second {
		q.server.log.Warn("request failed", slog.String("op", s.req.Op.String()),
			slog.Int64("offset", s.req.Off), slog.Int("length", s.req.Len), slog.Any("err", err),
			slog.Uint64("failed_since_last_message", q.muted))
		q.logged, q.muted = now, 0
	}
}
