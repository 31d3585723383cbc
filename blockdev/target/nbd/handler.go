package nbd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/nbd/wire"
	"varve/uring"
	"varve/uring/queue"
)

// handlerState is where a handler's request is.
//
//	        no connection is up
//	Start --------------------> waitingForConnection
//	  |  others send                  | one is up
//	  |------------> waitingForTurn   |
//	  |                 | turn <------'
//	  '--> sending <----'
//	         | sent
//	       waitingForReply --> toReceive --> receiving
//	         | done    ^--------------------------'
//	        idle
//
// From all but idle a lost connection leads back to Start.
type handlerState uint8

const (
	idle                 handlerState = iota
	waitingForConnection              // held
	waitingForTurn                    // held
	turn                              // resumed, to send
	sending                           // secondaries in flight
	waitingForReply                   // held
	toReceive                         // resumed, to receive a chunk
	receiving                         // secondaries in flight
	lost                              // resumed, to start again
)

// handler serves the requests of a tag.
type handler struct {
	*part
	tag    uint16
	state  handlerState
	r      *queue.Request
	header []byte // of the request

	conn     *connection
	gen      uint64 // of conn's link
	cookie   uint64 // 0: no reply may come
	turnHeld bool   // the stream is occupied by this request
	done     bool   // the reply is complete
	flushing bool   // what is sent is the flush behind a write with FUA
	got      int    // bytes of a read that the reply had
	chunks   int    // in how many parts
	err      error  // of the reply
	heard    int    // part.ticks when it was sent, or when a part of the reply came
	lostAt   time.Time
}

var _ queue.Sender = (*handler)(nil)

// command returns what the server is asked for, or false if it does not know that.
func (h *handler) command(r *queue.Request) (wire.Request, bool) {
	w := wire.Request{Off: uint64(r.Off), Len: uint32(r.Len), Cookie: h.cookie}
	e := &h.t.export
	if r.FUA && e.Has(wire.CanFUA) && r.Op != queue.OpRead {
		w.Flags |= wire.FlagFUA
	}
	switch {
	case h.flushing || r.Op == queue.OpFlush:
		return wire.Request{Type: wire.Flush, Cookie: h.cookie}, e.Has(wire.CanFlush)
	case r.Op == queue.OpRead:
		w.Type = wire.Read
	case r.Op == queue.OpWrite:
		w.Type = wire.Write
		return w, !h.t.opts.ReadOnly
	case r.Op == queue.OpDiscard:
		w.Type, w.Flags = wire.Trim, 0
		return w, h.t.lim.Discard
	case r.Op == queue.OpWriteZeroes:
		// Without FlagFastZero: a server that writes the zeroes itself is faster than one to which
		// the kernel sends them.
		w.Type = wire.WriteZeroes
		if r.NoUnmap {
			w.Flags |= wire.FlagNoHole
		}
		return w, h.t.lim.Zeroes
	default:
		return w, false
	}
	return w, true
}

// Start implements queue.Handler.
func (h *handler) Start(r *queue.Request) (queue.Action, error) {
	if h.state == idle {
		h.r, h.flushing, h.lostAt = r, false, time.Time{}
		if _, known := h.command(r); !known {
			return queue.Answer, unix.EOPNOTSUPP
		}
		h.underWay.Add(1)
	}
	if h.state == turn {
		if h.alive() {
			return h.send()
		}
		h.lose()
	}
	return h.place()
}

// place chooses a connection.
func (h *handler) place() (queue.Action, error) {
	h.flushing = false
	c := h.pick()
	if h.late() || c == nil && time.Since(h.downSince) > h.t.opts.Timeout {
		return queue.Answer, h.end(h.unreachable())
	}
	if c == nil {
		if h.lostAt.IsZero() {
			h.lostAt = time.Now()
		}
		h.state = waitingForConnection
		h.waiting = append(h.waiting, h)
		return queue.Hold, nil
	}
	h.conn, h.gen = c, c.gen
	c.load++
	return h.line()
}

// late reports whether the request has lost its connection for so long that it fails.
func (h *handler) late() bool { return !h.lostAt.IsZero() && time.Since(h.lostAt) > h.t.opts.Timeout }

// line sends, or waits until the stream is free.
func (h *handler) line() (queue.Action, error) {
	c := h.conn
	if c.sender != nil {
		h.state = waitingForTurn
		c.queue = append(c.queue, h)
		return queue.Hold, nil
	}
	c.sender = h
	return h.send()
}

// alive reports whether the request's connection still is what it was.
func (h *handler) alive() bool { return h.conn != nil && h.conn.state == up && h.conn.gen == h.gen }

// send adds the request to the stream, which is free.
func (h *handler) send() (queue.Action, error) {
	c, r := h.conn, h.r
	h.seq++
	h.cookie = h.seq<<16 | uint64(h.tag)
	h.done, h.got, h.chunks, h.err, h.heard = false, 0, 0, nil, h.ticks
	w, _ := h.command(r)
	w.Put(h.header)
	s := uring.Secondary{Op: uring.SecondarySend, FD: int32(c.link.fd), Mem: h.header, Flags: unix.MSG_WAITALL}
	switch {
	case w.Type != wire.Write:
		r.Add(s)
	case c.link.zc && h.zc:
		s.Link, s.Flags = true, unix.MSG_WAITALL|unix.MSG_MORE
		r.Add(s)
		r.Add(uring.Secondary{Op: uring.SecondarySend, FD: s.FD, Len: uint32(r.Len), Flags: unix.MSG_WAITALL})
	default:
		n := headerSize + r.Len
		if cap(c.out) < n {
			c.out = make([]byte, n)
		}
		s.Mem = c.out[:n]
		copy(s.Mem, h.header)
		if err := r.Take(s.Mem[headerSize:], 0); err != nil {
			c.pass()
			return queue.Answer, h.end(err)
		}
		r.Add(s)
	}
	h.state, h.turnHeld = sending, true
	c.ops++
	return queue.Submit, nil
}

// Sent implements queue.Sender.
func (h *handler) Sent(*queue.Request) { h.release() }

// release frees the stream for the next request.
func (h *handler) release() {
	if !h.turnHeld {
		return
	}
	h.turnHeld = false
	c := h.conn
	if c.gen != h.gen {
		return
	}
	c.ops--
	if c.state == up {
		c.pass()
	} else {
		c.settle()
	}
}

// Finish implements queue.Handler.
func (h *handler) Finish(_ *queue.Request, err error) (queue.Action, error) {
	was := h.state
	switch was {
	case sending:
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
			h.zc = false // not on this socket: copied from now on
		}
		h.release()
	case receiving:
		if h.conn.gen == h.gen {
			h.conn.ops--
			h.conn.settle()
		}
	default:
	}
	if err != nil && h.alive() {
		h.conn.fail(err)
	}
	if !h.alive() {
		h.lose()
		return queue.Again, nil
	}
	switch was {
	case turn:
		return h.send()
	case toReceive:
		return h.receive()
	case receiving:
		h.state = waitingForReply
		last := h.conn.chunk.last
		if h.conn.next(); last {
			return h.outcome()
		}
		return queue.Hold, nil
	default:
		h.state = waitingForReply
		return h.sentAll()
	}
}

// sentAll goes on after a request has been sent, of whose reply some may be here already.
func (h *handler) sentAll() (queue.Action, error) {
	switch c := h.conn; {
	case h.done:
		return h.outcome()
	case c.chunk.h != h:
	case c.chunk.hole || c.t.recvs:
		return h.receive()
	default:
		c.fetchCopy()
	}
	return queue.Hold, nil
}

// receive moves the chunk on the stream into the request's buffer.
func (h *handler) receive() (queue.Action, error) {
	c := h.conn
	if k := &c.chunk; k.hole {
		h.r.Zeroes(k.off, k.len)
	} else {
		h.r.Add(uring.Secondary{
			Op: uring.SecondaryRecv, FD: int32(c.link.fd), BufOff: uint32(k.off), Len: uint32(k.len), Flags: unix.MSG_WAITALL,
		})
	}
	h.state = receiving
	c.ops++
	return queue.Submit, nil
}

// note keeps the first error of a reply.
func (h *handler) note(r *wire.Reply) {
	if err := r.Errno.Err(); err != nil && h.err == nil {
		h.err = fmt.Errorf("the server answers: %w", err)
		if len(r.Text) > 0 {
			h.err = fmt.Errorf("the server answers %q: %w", r.Text, err)
		}
	}
}

// replied: the reply is complete. Called by the reader; the request is held, or being sent.
func (h *handler) replied() {
	h.done = true
	if h.state == waitingForReply {
		a, err := h.outcome()
		h.q.Resume(h.r, a, err)
	}
}

// outcome is what a complete reply leads to.
func (h *handler) outcome() (queue.Action, error) {
	c, r := h.conn, h.r
	c.good = true
	switch {
	case h.err != nil:
		return queue.Answer, h.end(h.err)
	case r.Op == queue.OpRead && h.got != r.Len:
		h.state = lost
		c.fail(fmt.Errorf("%w: %d bytes for a read of %d", wire.ErrProtocol, h.got, r.Len))
		h.lose()
		return queue.Again, nil
	case r.FUA && !h.flushing && r.Op != queue.OpRead && h.t.export.Flags&(wire.CanFUA|wire.CanFlush) == wire.CanFlush:
		return h.flushBehind()
	}
	return queue.Answer, h.end(nil)
}

// flushBehind makes a write durable on a server without FUA.
func (h *handler) flushBehind() (queue.Action, error) {
	h.flushing, h.cookie = true, 0
	if h.conn.sender != nil {
		h.state = waitingForTurn
		h.conn.queue = append(h.conn.queue, h)
		return queue.Hold, nil
	}
	h.conn.sender, h.state = h, turn
	return queue.Submit, nil // Finish sends
}

// lose parts the request from its connection.
func (h *handler) lose() {
	if h.lostAt.IsZero() {
		h.lostAt = time.Now()
	}
	h.leave()
	h.state = lost
}

func (h *handler) leave() {
	if c := h.conn; c != nil {
		if c.gen == h.gen {
			c.load--
			if c.sender == h {
				c.pass()
			}
		}
		h.conn = nil
	}
	h.cookie = 0
}

// end forgets the request, which is answered with err.
func (h *handler) end(err error) error {
	h.leave()
	h.state = idle
	h.underWay.Add(-1)
	return err
}

// Work implements queue.Handler.
func (*handler) Work(context.Context, *queue.Request) (queue.Action, error) {
	return queue.Answer, queue.ErrInvalid
}

var errDropped = errors.New("a request was given up")

// Drop implements queue.Handler.
func (h *handler) Drop(*queue.Request) {
	if h.state == idle {
		return
	}
	c, alive := h.conn, h.alive()
	if h.turnHeld && c != nil && c.gen == h.gen { // nothing is in flight
		c.ops--
	}
	h.turnHeld = false
	_ = h.end(nil)
	if alive {
		c.fail(errDropped) // its stream may be in the middle of the request
	}
}
