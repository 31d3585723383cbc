package queue

import (
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// mailbox is how other goroutines reach a queue; wakeup makes the queue look into it.
type mailbox struct {
	sync.Mutex
	done  []result       // requests that come back
	asks  []chan<- Stats // callers that want the counters
	quit  bool           // end without waiting for the driver
	ended bool           // the queue is gone
	final Stats          // its last counters
	empty []result       // swapped with done when the queue takes that; empty, with its capacity
}

// result is a request that comes back to its queue, and what is wanted next.
type result struct {
	tag     uint16
	action  Action
	err     error
	resumes bool // the end of a hold; else a worker's
}

// put hands a request back to its queue.
func (m *mailbox) put(r result, w *wakeup) {
	m.Lock()
	defer m.Unlock()
	m.done = append(m.done, r)
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

// stop makes the queue end as soon as it owns nothing, whether the driver has taken its fetches
// back or not.
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

// end answers the calls that still wait for counters. The wakeup is not used any more.
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
func (q *Queue) woken(res int32) error {
	if res < 0 && !uring.Passing(unix.Errno(-res)) {
		return fmt.Errorf("wait for workers: %w", unix.Errno(-res))
	}
	if err := q.armWake(); err != nil {
		return err
	}
	m := &q.back
	m.Lock()
	done, asks := m.done, m.asks
	m.done, m.empty, m.asks = m.empty[:0], done, nil
	q.quit = m.quit
	m.Unlock()
	q.draining = q.draining || q.quit
	for _, c := range asks {
		c <- q.count
	}
	for _, r := range done {
		if err := q.goOn(r); err != nil {
			return err
		}
	}
	if q.quit {
		q.leaveHeld()
	}
	return nil
}

// leaveHeld leaves held requests to a successor: there may be nothing left that resumes them.
func (q *Queue) leaveHeld() {
	for i := range q.slots {
		if s := &q.slots[i]; s.state == slotHeld {
			q.server.drop(s)
			s.move(slotOurs)
			q.held--
			q.leave(s)
		}
	}
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

// ring makes the queue's read complete. The caller holds the mailbox's lock, so that the queue has
// not ended.
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

func (q *Queue) armWake() error {
	sqe, err := uring.NextSQE(q.ring)
	if err != nil {
		return err
	}
	sqe.Read(int32(q.wake.fd), q.wake.buf, 0)
	sqe.UserData = uint64(uring.Pack(uring.KindPoll, 0, 0, 0))
	return nil
}
