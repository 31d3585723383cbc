package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"varve/uring"
)

// Options of a Server. All are needed, but for NewRing.
type Options struct {
	Queues  int // each a thread and a ring
	Depth   int // tags of each queue
	MaxIO   int // bytes of the largest request with data
	Workers int // goroutines for what blocks
	// File is the driver's file descriptor; it is DriverFile in each ring's table of files.
	File int
	// Driver makes the driver's end of queue number q, on the queue's thread, and registers the
	// buffer table of Depth slots if the driver lends pages.
	Driver func(q int, ring uring.Ring) (Driver, error)
	// NewPart makes the disk's part of a queue, on the queue's thread.
	NewPart func(q *Queue) (Part, error)
	// NewRing makes a queue's ring; nil: uring.New. Tests wrap it.
	NewRing func(uring.Options) (uring.Ring, error)
	// Logger is told about failed requests, panics and the failure of a queue.
	Logger *slog.Logger
}

// Server is the queues of one device and the workers that they share.
type Server struct {
	opts   Options
	log    *slog.Logger
	queues []*Queue
	zero   *os.File // /dev/zero
	work   chan job
	waits  chan job           // of Await: for their own workers, whom the others do not wait for
	cancel context.CancelFunc // ends the workers' context

	panics  atomic.Uint64
	serving sync.WaitGroup // queues
	workers sync.WaitGroup
	failed  chan struct{} // closed by the first queue that ends with an error
	done    chan struct{} // closed when no goroutine of the server runs any more

	mu  sync.Mutex // guards err
	err error      // the first error of a queue
}

// Start starts the queues; when it returns they have fetched all their tags. After an error nothing
// of them is left.
func Start(o Options) (*Server, error) {
	s := &Server{opts: o, log: o.Logger, failed: make(chan struct{}), done: make(chan struct{})}
	var err error
	if s.zero, err = os.Open("/dev/zero"); err != nil {
		return nil, fmt.Errorf("open source of zeroes: %w", err)
	}
	queues := make([]*Queue, o.Queues)
	for i := range queues {
		queues[i] = &Queue{server: s, id: uint16(i)}
		if err := queues[i].wake.open(); err != nil {
			for _, q := range queues[:i] {
				err = errors.Join(err, q.wake.close())
			}
			return nil, errors.Join(err, s.zero.Close())
		}
	}
	s.queues = queues
	reserveProcs(o.Queues)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.startWorkers(ctx, o.Workers)
	ready := make(chan error, o.Queues)
	for _, q := range s.queues {
		s.serving.Go(func() {
			if err := q.run(ready); err != nil {
				s.fail(err)
			}
		})
	}
	go s.reap()
	var errs []error
	for range o.Queues {
		errs = append(errs, <-ready)
	}
	if err := errors.Join(errs...); err != nil {
		s.Stop()
		<-s.done
		return nil, err
	}
	return s, nil
}

// startWorkers starts those for what blocks, and waiters for what may block for long.
func (s *Server) startWorkers(ctx context.Context, workers int) {
	s.work = make(chan job, s.opts.Queues*s.opts.Depth)
	s.waits = make(chan job, s.opts.Queues*s.opts.Depth)
	for range workers {
		s.workers.Go(func() { s.worker(ctx, s.work) })
	}
	for range waiters {
		s.workers.Go(func() { s.worker(ctx, s.waits) })
	}
}

// reap waits for the queues and then for the workers, and releases what they used.
func (s *Server) reap() {
	s.serving.Wait()
	s.cancel()
	close(s.work)
	close(s.waits)
	s.workers.Wait()
	if err := s.zero.Close(); err != nil {
		s.fail(err)
	}
	releaseProcs(s.opts.Queues)
	close(s.done)
}

// fail keeps the first error. A device one of whose queues is gone can't be served: the others end
// too, and the driver keeps the requests for a successor.
func (s *Server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	s.log.Error("device failed", slog.Any("err", err))
	close(s.failed)
	s.Stop()
}

// Stop makes the queues end as soon as they own no request, without waiting for the driver to take
// its fetches back, and the workers give up what waits. It returns at once.
func (s *Server) Stop() {
	s.cancel()
	for _, q := range s.queues {
		q.back.stop(&q.wake)
	}
}

// Failed is closed when a queue has ended with an error.
func (s *Server) Failed() <-chan struct{} { return s.failed }

// Done is closed when no goroutine of the server runs any more.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is the first error of a queue, nil so far.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Stats adds up the queues' counters.
func (s *Server) Stats() Stats {
	var sum Stats
	for _, one := range s.QueueStats() {
		sum.add(&one)
	}
	sum.Panics = s.panics.Load()
	return sum
}

// QueueStats are the counters of each queue; panics are counted in Stats alone.
func (s *Server) QueueStats() []Stats {
	answers := make([]<-chan Stats, len(s.queues))
	for i, q := range s.queues {
		answers[i] = q.back.ask(&q.wake)
	}
	list := make([]Stats, len(answers))
	for i, c := range answers {
		list[i] = <-c
	}
	return list
}
