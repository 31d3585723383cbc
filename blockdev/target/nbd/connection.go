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

// connState is where a connection is; the package comment draws it.
type connState uint8

const (
	down connState = iota
	up
	closing
)

const (
	headerSize = wire.RequestSize
	maxHeader  = wire.MaxReply

	slice      = 128 << 10 // bytes of a read that are received into memory at once
	maxBackoff = 2 * time.Second
	maxRead    = 32 << 20 // bytes; no device reads more at once
)

// connection is a stream to the server. It belongs to the thread of its queue.
type connection struct {
	*part
	token   uint16
	state   connState
	link    *link
	gen     uint64 // of links
	load    int    // requests
	ops     int    // entries in flight that name the socket
	err     error  // why the link before was lost
	good    bool   // the link has answered a request
	backoff time.Duration

	sender *handler   // whose turn to send it is
	queue  []*handler // who send next
	out    []byte     // header and bytes of a write that is copied

	filling []byte // what is being received
	passing int    // how often in a row that failed for a moment
	header  []byte // of a reply
	got     int    // bytes of header
	chunk   chunk  // behind the header
	in      []byte // bytes of a read that is copied
	inGot   int
}

// chunk is a part of a read that is on the stream.
type chunk struct {
	h        *handler
	off, len int // in the request's buffer
	hole     bool
	last     bool
	into     bool // it is received into memory
}

// connect makes a link in the background, after the one before has been closed.
func (c *connection) connect() {
	old, pause := c.link, c.backoff
	c.link = nil
	if c.good {
		c.backoff, pause = c.t.opts.backoff, 0
	} else {
		c.backoff = min(2*c.backoff, maxBackoff)
	}
	c.good = false
	c.background.Go(func() {
		if old != nil {
			_ = old.close() // it was lost
		}
		for {
			if !sleep(c.ctx, pause) {
				return
			}
			l, err := c.t.dialer.dial(c.ctx)
			if err == nil {
				if err = c.t.fits(l.export); err == nil {
					if !c.post(event{c, l}) {
						_ = l.close() // nothing was sent
					}
					return
				}
				err = errors.Join(err, l.close())
			}
			if c.ctx.Err() == nil && pause < maxBackoff {
				c.log.Warn("no connection to an NBD server", "address", c.t.dialer.addr.Host, "error", err)
			}
			pause = min(max(2*pause, c.t.opts.backoff), maxBackoff)
		}
	})
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// take begins to use a link.
func (c *connection) take(l *link) {
	if c.gen > 0 {
		c.log.Info("connected to the NBD server again", "address", c.t.dialer.addr.Host)
	}
	c.link, c.state, c.load, c.ops = l, up, 0, 0
	c.gen++
	c.sender, c.queue, c.chunk = nil, nil, chunk{}
	c.downSince = time.Time{}
	c.next()
	waiting := c.waiting
	c.waiting = nil
	for _, h := range waiting {
		if h.state == waitingForConnection {
			h.state = lost
			c.q.Resume(h.r, queue.Again, nil)
		}
	}
}

// fail ends the link, and has its requests sent again. Those in motion notice by themselves.
func (c *connection) fail(err error) {
	if c.state != up {
		return
	}
	c.state, c.err, c.sender, c.queue = closing, err, nil, nil
	c.t.lost.Add(1)
	c.log.Warn("a connection to an NBD server was lost; its requests are sent again", "address", c.t.dialer.addr.Host,
		"requests", c.load, "error", err)
	_ = unix.Shutdown(c.link.fd, unix.SHUT_RDWR) // the peer may have done it
	// What was sent and not taken is thrown away, so that the kernel lets go of the pages.
	_ = unix.SetsockoptLinger(c.link.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	for _, h := range c.handlers {
		if h.conn == c && h.gen == c.gen && (h.state == waitingForTurn || h.state == waitingForReply) {
			h.lose()
			c.q.Resume(h.r, queue.Again, nil)
		}
	}
	if c.pick() == nil && c.downSince.IsZero() {
		c.downSince = time.Now()
	}
	c.settle()
}

// settle goes on once nothing in flight names the socket: its number may belong to another file
// afterwards.
func (c *connection) settle() {
	if c.state == closing && c.ops == 0 {
		c.state = down
		c.connect()
	}
}

// end takes leave of the server and ends what is in flight.
func (c *connection) end() error {
	if c.link == nil {
		return nil
	}
	if c.state == up && c.sender == nil {
		p := make([]byte, headerSize)
		(&wire.Request{Type: wire.Disconnect}).Put(p)
		_, _ = unix.SendmsgN(c.link.fd, p, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) // a courtesy
	}
	_ = unix.Shutdown(c.link.fd, unix.SHUT_RDWR) // the peer may have done it
	l := c.link
	c.link, c.state = nil, down
	return l.close()
}

// pass gives the turn to send to the next handler.
func (c *connection) pass() {
	c.sender = nil
	if len(c.queue) > 0 {
		h := c.queue[0]
		c.queue = c.queue[1:]
		c.sender, h.state = h, turn
		if h.flushing {
			c.q.Resume(h.r, queue.Submit, nil)
		} else {
			c.q.Resume(h.r, queue.Again, nil)
		}
	}
}

// next receives the next header.
func (c *connection) next() {
	c.got = 0
	c.chunk = chunk{}
	c.receive(c.header[:wire.SimpleSize])
}

// receive has p filled from the stream.
func (c *connection) receive(p []byte) {
	fd := int32(c.link.fd)
	c.filling = p
	if err := c.q.Enter(c.token, func(s *uring.SQE) { s.Recv(fd, p, unix.MSG_WAITALL) }); err != nil {
		c.fail(err)
		return
	}
	c.ops++
}

// received takes the result of a receive.
func (c *connection) received(res int32) {
	c.ops--
	if res > 0 {
		c.passing = 0
	}
	switch {
	case c.state != up:
		c.settle()
	case res == 0:
		c.fail(errors.New("the server has ended the connection"))
	case res < 0 && uring.Passing(unix.Errno(-res)) && c.passing < uring.DefaultMaxRetries:
		c.passing++
		c.receive(c.filling)
	case res < 0:
		c.fail(unix.Errno(-res))
	case c.chunk.into:
		c.receivedData(int(res))
	default:
		c.receivedHeader(int(res))
	}
}

func (c *connection) receivedHeader(n int) {
	c.got += n
	want, err := wire.ReplyLen(c.header[:c.got], c.link.export.Structured)
	if err != nil {
		c.fail(err)
		return
	}
	if c.got < want {
		c.receive(c.header[c.got:want])
		return
	}
	r, err := wire.ParseReply(c.header[:c.got])
	if err == nil {
		err = c.reply(&r)
	}
	if err != nil {
		c.fail(err)
	}
}

// reply goes on with the request that a reply is for.
func (c *connection) reply(r *wire.Reply) error {
	h := c.handlerOf(r.Cookie)
	if h == nil {
		return fmt.Errorf("%w: a reply to the request %#x, which is not under way", wire.ErrProtocol, r.Cookie)
	}
	h.heard = c.ticks
	read := h.r.Op == queue.OpRead
	if h.chunks++; h.chunks > maxChunks(h.r.Len) {
		return fmt.Errorf("%w: the reply to a %v of %d bytes has more than %d parts", wire.ErrProtocol, h.r.Op, h.r.Len, maxChunks(h.r.Len))
	}
	switch r.Kind {
	case wire.Simple:
		if read && c.link.export.Structured {
			return fmt.Errorf("%w: a simple reply to a read, instead of a structured one", wire.ErrProtocol)
		}
		if read && r.Errno == 0 {
			return c.data(h, uint64(h.r.Off), uint32(h.r.Len), false, true)
		}
		h.note(r)
	case wire.Failed:
		h.note(r)
	case wire.Data, wire.Hole:
		if !read {
			return fmt.Errorf("%w: bytes for a %v", wire.ErrProtocol, h.r.Op)
		}
		return c.data(h, r.Off, r.Len, r.Kind == wire.Hole, r.Done)
	case wire.None:
	default:
		return fmt.Errorf("%w: extents for a %v", wire.ErrProtocol, h.r.Op)
	}
	if h.err != nil && errors.Is(h.err, unix.ESHUTDOWN) {
		return h.err
	}
	c.next()
	if r.Done {
		h.replied()
	}
	return nil
}

// handlerOf returns whose request a cookie is, nil if it is of none that waits for a reply.
func (c *connection) handlerOf(cookie uint64) *handler {
	tag := cookie & (1<<16 - 1)
	if tag >= uint64(len(c.handlers)) {
		return nil
	}
	h := c.handlers[tag]
	if h.cookie != cookie || h.conn != c || h.gen != c.gen || h.done || h.state != sending && h.state != waitingForReply {
		return nil
	}
	return h
}

// data begins to receive a part of a read.
func (c *connection) data(h *handler, off uint64, n uint32, hole, last bool) error {
	from, end := uint64(h.r.Off), uint64(h.r.Off)+uint64(h.r.Len)
	if off < from || off > end || uint64(n) > end-off || int(n) > h.r.Len-h.got {
		return fmt.Errorf("%w: %d bytes at %d, of a read of %d at %d, of which %d were here", wire.ErrProtocol, n, off, h.r.Len, h.r.Off, h.got)
	}
	h.got += int(n)
	c.chunk = chunk{h: h, off: int(off - from), len: int(n), hole: hole, last: last}
	if h.state == waitingForReply { // else Finish goes on
		c.fetch(h)
	}
	return nil
}

// maxChunks bounds the chunks of a reply to a request of n bytes, and with them the memory of a request.
func maxChunks(n int) int { return 4 + min(n, maxRead)/512 }

// fetch moves the chunk on the stream. The request is held.
func (c *connection) fetch(h *handler) {
	if c.chunk.hole || c.t.recvs {
		h.state = toReceive
		c.q.Resume(h.r, queue.Submit, nil)
		return
	}
	c.fetchCopy()
}

// fetchCopy receives the rest of the chunk into memory, a slice at a time.
func (c *connection) fetchCopy() {
	if c.in == nil {
		c.in = make([]byte, slice)
	}
	c.chunk.into, c.inGot = true, 0
	c.receive(c.in[:min(c.chunk.len, slice)])
}

// receivedData takes a part of a read that was received into memory.
func (c *connection) receivedData(n int) {
	k, h := &c.chunk, c.chunk.h
	h.heard = c.ticks
	want := min(k.len, slice)
	if c.inGot += n; c.inGot < want {
		c.receive(c.in[c.inGot:want])
		return
	}
	if err := h.r.Fill(c.in[:want], k.off); err != nil {
		c.fail(err)
		return
	}
	k.off, k.len = k.off+want, k.len-want
	if k.len > 0 {
		c.fetchCopy()
		return
	}
	last := k.last
	c.next()
	if last {
		h.replied()
	}
}
