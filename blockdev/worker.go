package blockdev

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// job is a slot whose handler wants to block.
type job struct {
	q *queue
	s *slot
}

// waiters is how many workers wait for what may take long. All who wait for room get it at once, so that few do.
const waiters = 4

// worker does jobs until the channel is closed.
func (d *Device) worker(ctx context.Context, jobs <-chan job) {
	for j := range jobs {
		j.s.action, j.s.err = j.run(ctx)
		j.q.back.put(j.s.tag, &j.q.wake)
	}
}

// The three doors to a handler. A panic behind one of them fails the request alone.

func (q *queue) start(s *slot) (a Action, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, err = Answer, q.dev.panicked(s, p)
		}
	}()
	return s.handler.Start(&s.req)
}

func (q *queue) finish(s *slot, result error) (a Action, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, err = Answer, q.dev.panicked(s, p)
		}
	}()
	return s.handler.Finish(&s.req, result)
}

func (j job) run(ctx context.Context) (a Action, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, err = Answer, j.q.dev.panicked(j.s, p)
		}
	}()
	return j.s.handler.Work(ctx, &j.s.req)
}

// panicked logs where a handler panicked and makes it let go of the request.
func (d *Device) panicked(s *slot, p any) error {
	d.panics.Add(1)
	d.log.Error("panic while serving a request", slog.String("op", s.req.Op.String()), slog.Int64("offset", s.req.Off),
		slog.Int("length", s.req.Len), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	err := fmt.Errorf("%w: %v", ErrPanic, p)
	func() {
		defer func() {
			if p := recover(); p != nil {
				d.log.Error("panic while dropping a request", slog.Any("panic", p))
			}
		}()
		s.handler.Drop(&s.req)
	}()
	return err
}

// put hands a tag back to its queue.
func (m *mailbox) put(tag uint16, w *wakeup) {
	m.Lock()
	defer m.Unlock()
	m.done = append(m.done, tag)
	if len(m.done) == 1 && !m.ended {
		w.ring()
	}
}

// ask wants the queue's counters.
func (m *mailbox) ask(w *wakeup) <-chan Stats {
	c := make(chan Stats, 1)
	m.Lock()
	defer m.Unlock()
	if m.ended {
		c <- m.final
		return c
	}
	m.asks = append(m.asks, c)
	w.ring()
	return c
}

// stop makes the queue end as soon as it owns nothing, whether the driver has taken its fetches back or not.
func (m *mailbox) stop(w *wakeup) {
	m.Lock()
	defer m.Unlock()
	m.quit = true
	if !m.ended {
		w.ring()
	}
}

func (m *mailbox) isQuit() bool {
	m.Lock()
	defer m.Unlock()
	return m.quit
}

// end answers who still asks. wake is not rung any more.
func (m *mailbox) end(last Stats) {
	m.Lock()
	defer m.Unlock()
	m.ended, m.final = true, last
	for _, c := range m.asks {
		c <- last
	}
	m.asks = nil
}

// woken looks into the mailbox.
func (q *queue) woken(res int32) error {
	if res < 0 && unix.Errno(-res) != unix.EINTR && unix.Errno(-res) != unix.EAGAIN {
		return fmt.Errorf("wait for workers: %w", unix.Errno(-res))
	}
	if err := q.armWake(); err != nil {
		return err
	}
	m := &q.back
	m.Lock()
	done, asks := m.done, m.asks
	m.done, m.spare, m.asks = m.spare[:0], done, nil
	quit := m.quit
	m.Unlock()
	q.draining = q.draining || quit
	for _, c := range asks {
		c <- q.count
	}
	for _, tag := range done {
		s := &q.slots[tag]
		s.move(slotOurs)
		q.inWork--
		if q.draining && errors.Is(s.err, context.Canceled) {
			// The wait was given up because the queue ends: the request is left to a successor, unanswered.
			s.move(slotDead)
			q.owned--
			q.dead++
			continue
		}
		if err := q.act(s, s.action, s.err); err != nil {
			return err
		}
	}
	return nil
}

// wakeup is an eventfd that a queue reads on its ring.
type wakeup struct {
	fd  int
	buf []byte // what the ring reads into
}

func (w *wakeup) open() error {
	// Not EFD_NONBLOCK: the ring would answer EAGAIN instead of waiting.
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make eventfd: %w", err)
	}
	w.fd, w.buf = fd, make([]byte, 8)
	return nil
}

// ring makes the queue's read complete. The caller holds the mailbox's lock, so that the queue has not ended.
func (w *wakeup) ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	for {
		if _, err := unix.Write(w.fd, one[:]); err != unix.EINTR {
			return
		}
	}
}

func (w *wakeup) close() error {
	if w.buf == nil {
		return nil
	}
	return unix.Close(w.fd)
}

func (q *queue) armWake() error {
	sqe, err := uring.NextSQE(q.ring)
	if err != nil {
		return err
	}
	sqe.Read(int32(q.wake.fd), q.wake.buf, 0)
	sqe.UserData = uint64(uring.Pack(uring.KindPoll, 0, 0, 0))
	return nil
}
