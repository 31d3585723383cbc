package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"varve/uring"
	"varve/uring/queue"
)

// part is the target's part of a queue. All fields belong to the queue's thread, but for those that
// say otherwise.
type part struct {
	t         *Target
	q         *queue.Queue
	log       *slog.Logger
	conns     []*connection
	handlers  []*handler
	waiting   []*handler // for a connection that is up
	seq       uint64     // of cookies
	zc        bool       // SEND_ZC may be used
	downSince time.Time  // since when no connection is up; zero if one is
	ticks     int        // while requests were under way

	underWay atomic.Int64 // requests

	wake    int    // eventfd, which post writes and the ring reads
	wakeBuf []byte // what the ring reads into

	ctx        context.Context //nolint:containedctx // of the goroutines in the background, which Close ends
	cancel     context.CancelFunc
	background sync.WaitGroup

	mu     sync.Mutex // guards events, ticked and closed
	events []event
	ticked bool // time has passed since Complete last looked
	closed bool
}

// event is what a goroutine in the background tells the queue's thread: a new link of a connection.
type event struct {
	conn *connection
	link *link
}

// wakeToken is the token of the read of the eventfd; those of connections are their numbers.
const wakeToken = 1<<16 - 1

// ticksOfTimeout is how often the smaller of the two timeouts is looked at.
const ticksOfTimeout = 8

var _ queue.Completer = (*part)(nil)

// NewPart implements target.Target. Its connections are made in the background, but for the first.
func (t *Target) NewPart(q *queue.Queue) (queue.Part, error) {
	index, queues := q.Place()
	if limit := t.lim.Queues; limit != 0 && queues > limit {
		return nil, fmt.Errorf("%w: %d queues; the export allows %d", queue.ErrInvalid, queues, limit)
	}
	n := max(1, t.opts.Connections/queues)
	if index < t.opts.Connections-n*queues {
		n++
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	p := &part{t: t, q: q, log: t.opts.Logger, wake: fd, wakeBuf: make([]byte, 8), zc: true, downSince: time.Now()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if err := p.armWake(); err != nil {
		p.cancel()
		return nil, errors.Join(err, unix.Close(fd))
	}
	p.background.Go(p.tick)
	for i := range n {
		c := &connection{part: p, token: uint16(i), header: make([]byte, maxHeader), backoff: t.opts.backoff, good: true}
		p.conns = append(p.conns, c)
		if l := t.takeFirst(); l != nil {
			c.take(l)
		} else {
			c.connect()
		}
	}
	return p, nil
}

// NewHandler implements queue.Part.
func (p *part) NewHandler(tag uint16) queue.Handler {
	h := &handler{part: p, tag: tag, header: make([]byte, headerSize)}
	p.handlers = append(p.handlers, h)
	return h
}

// Files implements queue.Part: connections come and go, so none is in the ring's table.
func (p *part) Files() []int { return nil }

// Close implements queue.Part.
func (p *part) Close() error {
	p.mu.Lock()
	p.closed = true
	events := p.events
	p.events = nil
	p.mu.Unlock()
	p.cancel()
	var errs []error
	for _, c := range p.conns {
		errs = append(errs, c.end())
	}
	for _, e := range events {
		errs = append(errs, e.link.close())
	}
	p.background.Wait()
	p.ring()
	return errors.Join(append(errs, unix.Close(p.wake))...)
}

// post hands the queue's thread an event, or reports false if the part has been closed. Only
// goroutines in the background post: Close waits for them before it closes the eventfd.
func (p *part) post(e event) bool {
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.events = append(p.events, e)
	}
	p.mu.Unlock()
	if !closed {
		p.ring()
	}
	return !closed
}

// postTick tells the queue's thread that time has passed. However many ticks a thread that was kept
// from running has missed, they count as one: what the server sent meanwhile is still to be read.
func (p *part) postTick() {
	p.mu.Lock()
	tell := !p.closed && !p.ticked
	p.ticked = p.ticked || tell
	p.mu.Unlock()
	if tell {
		p.ring()
	}
}

func (p *part) ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	for {
		if _, err := unix.Write(p.wake, one[:]); err != unix.EINTR {
			return
		}
	}
}

func (p *part) armWake() error {
	return p.q.Enter(wakeToken, func(s *uring.SQE) { s.Read(int32(p.wake), p.wakeBuf, 0) })
}

// tick has the queue's thread look at the time while requests are under way.
func (p *part) tick() {
	every := time.NewTicker(p.t.opts.tick())
	defer every.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-every.C:
			if p.underWay.Load() > 0 {
				p.postTick()
			}
		}
	}
}

// Complete implements queue.Completer.
func (p *part) Complete(token uint16, e uring.CQE) error {
	if token != wakeToken {
		p.conns[token].received(e.Res)
		return nil
	}
	p.mu.Lock()
	events, ticked := p.events, p.ticked
	p.events, p.ticked = nil, false
	p.mu.Unlock()
	for _, e := range events {
		e.conn.take(e.link)
	}
	if ticked {
		p.look()
	}
	return p.armWake()
}

// look ends connections of which a request has waited for too long, be the others answered or not,
// and requests that have waited for a connection for too long.
func (p *part) look() {
	p.ticks++
	most := int(p.t.opts.RequestTimeout / p.t.opts.tick())
	for _, h := range p.handlers {
		if h.state >= sending && h.state <= receiving && h.alive() && p.ticks-h.heard > most {
			h.conn.fail(fmt.Errorf("the server has not answered a %v of %d bytes at %d for %v", h.r.Op, h.r.Len, h.r.Off, p.t.opts.RequestTimeout))
		}
	}
	waiting := p.waiting
	p.waiting = p.waiting[:0]
	for _, h := range waiting {
		switch {
		case h.state != waitingForConnection: // dropped
		case h.late():
			p.q.Resume(h.r, queue.Answer, h.end(p.unreachable()))
		default:
			p.waiting = append(p.waiting, h)
		}
	}
}

// tick is how much time passes between two looks.
func (o *Options) tick() time.Duration {
	return max(min(o.Timeout, o.RequestTimeout)/ticksOfTimeout, time.Millisecond)
}

// unreachable is the error of a request that no connection could serve in time.
func (p *part) unreachable() error {
	err := errors.New("no connection was made yet")
	for _, c := range p.conns {
		if c.err != nil {
			err = c.err
		}
	}
	return &queue.StatusError{Errno: unix.EIO, Err: fmt.Errorf("%s: not answered for %v: %w", p.t.dialer.addr.Host, p.t.opts.Timeout, err)}
}

// pick returns the connection with the fewest requests, nil if none is up.
func (p *part) pick() *connection {
	var best *connection
	for _, c := range p.conns {
		if c.state == up && (best == nil || c.load < best.load) {
			best = c
		}
	}
	return best
}
