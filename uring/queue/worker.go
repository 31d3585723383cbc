package queue

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
)

// job is a slot whose handler wants to block.
type job struct {
	q *Queue
	s *slot
}

// waiters is how many workers make calls that may wait for long. All waiters for room get it at the
// same time, so few are enough.
const waiters = 4

// worker does jobs until the channel is closed.
func (s *Server) worker(ctx context.Context, jobs <-chan job) {
	for j := range jobs {
		a, err := j.run(ctx)
		j.q.back.put(result{tag: j.s.tag, action: a, err: err}, &j.q.wake)
	}
}

// The three calls of a handler. A panic in one of them fails that request alone.

func (q *Queue) start(s *slot) (a Action, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, err = Answer, q.server.panicked(s, p)
		}
	}()
	return s.handler.Start(&s.req)
}

func (q *Queue) finish(s *slot, result error) (a Action, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, err = Answer, q.server.panicked(s, p)
		}
	}()
	return s.handler.Finish(&s.req, result)
}

func (j job) run(ctx context.Context) (a Action, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, err = Answer, j.q.server.panicked(j.s, p)
		}
	}()
	return j.s.handler.Work(ctx, &j.s.req)
}

// panicked logs where a handler panicked and makes it let go of the request.
func (s *Server) panicked(slot *slot, p any) error {
	s.panics.Add(1)
	s.log.Error("panic while serving a request", slog.String("op", slot.req.Op.String()), slog.Int64("offset", slot.req.Off),
		slog.Int("length", slot.req.Len), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	s.drop(slot)
	return fmt.Errorf("%w: %v", ErrPanic, p)
}

// drop makes a handler let go of its request.
func (s *Server) drop(slot *slot) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic while dropping a request", slog.Any("panic", p))
		}
	}()
	slot.handler.Drop(&slot.req)
}
