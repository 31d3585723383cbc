package queue

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"varve/uring"
)

// Part is what a disk or file system keeps for one queue. Its methods run on the queue's thread.
type Part interface {
	// NewHandler makes what serves one tag. Each handler serves one request at a time, and may keep
	// what it needs from one call to the next.
	NewHandler(tag uint16) Handler
	// Files are those that most secondaries go to, open until Close. They are registered with the
	// ring, which saves looking them up for each secondary.
	Files() []int
	// Close is called once, when no request is with a handler any more. It ends what the part has
	// in flight on the ring, for example by shutting a socket down; the queue waits for the
	// completions.
	Close() error
}

// Completer is a Part with entries of its own on the queue's ring: a connection whose replies
// belong to no request until they have been read.
type Completer interface {
	Part
	// Complete takes the completion of an entry that Queue.Enter has queued with token. An error
	// ends the queue.
	Complete(token uint16, c uring.CQE) error
}

// Handlers is a Part that keeps nothing: the handlers know all that they need.
type Handlers struct {
	New func() Handler
	FDs []int // see Part.Files; may be nil
}

// NewHandler implements Part.
func (h Handlers) NewHandler(uint16) Handler { return h.New() }

// Files implements Part.
func (h Handlers) Files() []int { return h.FDs }

// Close implements Part.
func (h Handlers) Close() error { return nil }

// Place returns which of its server's queues q is, from 0 on, and how many there are.
func (q *Queue) Place() (index, queues int) { return int(q.id), len(q.server.queues) }

// Logger is the server's.
func (q *Queue) Logger() *slog.Logger { return q.server.log }

// Enter queues an entry of the part, which is a Completer and gets the completion with the token.
// prepare fills in the entry, except its user data. The part must keep the memory that the entry
// names until the completion. Enter must be called on the queue's thread.
func (q *Queue) Enter(token uint16, prepare func(*uring.SQE)) error {
	sqe, err := uring.NextSQE(q.ring)
	if err != nil {
		return err
	}
	prepare(sqe)
	sqe.UserData = uint64(uring.Pack(uring.KindOwner, 0, 0, token))
	q.ownIO++
	return nil
}

// Resume ends the hold of a request: the request continues with a, or is answered with err. Once
// for each Hold, which may come after it: a reply may be here before the kernel has released the
// bytes that were sent. Only on the queue's thread, within a method of a handler or of the part;
// Post is for elsewhere.
func (q *Queue) Resume(r *Request, a Action, err error) {
	q.resumed = append(q.resumed, result{r.tag, a, err, true})
}

// Post is Resume for any goroutine. Until then the request belongs to the goroutine, which may add
// to it, Fill and Take.
func (r *Request) Post(a Action, err error) {
	r.queue.back.put(result{r.tag, a, err, true}, &r.queue.wake)
}

func (q *Queue) partCompleted(token uint16, c *uring.CQE) error {
	if c.Flags&uring.IORING_CQE_F_MORE == 0 {
		q.ownIO--
	}
	return q.ownEnd.Complete(token, *c)
}

// partLimit bounds how long a part's entries may take to end once it is closed.
const partLimit = time.Second

// closePart closes the part and waits for its entries: the kernel may write to their memory until
// they complete.
func (q *Queue) closePart() error {
	err := q.part.Close()
	for end := time.Now().Add(partLimit); q.ownIO > 0; {
		if werr := q.ring.SubmitAndWaitTimeout(1, time.Until(end)); werr != nil {
			abandoned.keep(q.part)
			return errors.Join(err, fmt.Errorf("wait for %d entries of a closed part: %w", q.ownIO, werr))
		}
		for n := len(q.cqes); n == len(q.cqes); {
			n = q.ring.Reap(q.cqes)
			for _, c := range q.cqes[:n] {
				if uring.UserData(c.UserData).Kind() == uring.KindOwner && c.Flags&uring.IORING_CQE_F_MORE == 0 {
					q.ownIO--
				}
			}
		}
	}
	return err
}
