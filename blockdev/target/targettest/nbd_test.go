package targettest_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/targettest"
	"varve/uring"
	"varve/uring/queue"
)

// network is a disk behind connections, one for each queue, in the manner of nbd: a request is a
// header, and behind it the bytes of a write; replies come in any order, each a header and behind
// it the bytes of a read. Requests on one connection must not be mixed, and a reply says by its
// cookie only which request it is for.
type network struct {
	t    *testing.T
	addr string
}

func (*network) Limits() target.Limits { return target.Limits{Size: size, Cache: true} }

// Headers: of a request, kind, cookie, length (4 bytes each) and offset (8); of a reply, cookie and
// errno.
const (
	requestHeader = 20
	replyHeader   = 8
)

var le = binary.LittleEndian

func (n *network) NewPart(q *queue.Queue) (queue.Part, error) {
	c, err := net.Dial("tcp", n.addr)
	if err != nil {
		return nil, err
	}
	f, err := c.(*net.TCPConn).File()
	if err = errors.Join(err, c.Close()); err != nil {
		return nil, err
	}
	p := &connection{q: q, file: f, fd: int(f.Fd()), reply: make([]byte, replyHeader), byTag: map[uint16]*networkHandler{}}
	return p, p.receive()
}

// connection is the part of a queue.
type connection struct {
	q       *queue.Queue
	file    *os.File
	fd      int
	reply   []byte
	got     int // bytes of reply
	byTag   map[uint16]*networkHandler
	sending bool
	waiting []*queue.Request // to be sent
	noFixed bool             // the kernel does not receive into registered buffers
}

func (c *connection) NewHandler(tag uint16) queue.Handler {
	h := &networkHandler{connection: c, header: make([]byte, requestHeader)}
	c.byTag[tag] = h
	return h
}

func (c *connection) Files() []int { return []int{c.fd} }

func (c *connection) Close() error {
	return errors.Join(unix.Shutdown(c.fd, unix.SHUT_RDWR), c.file.Close())
}

// receive has the rest of a reply's header received.
func (c *connection) receive() error {
	return c.q.Enter(0, func(s *uring.SQE) { s.Recv(int32(c.fd), c.reply[c.got:], 0) })
}

// Complete takes a piece of a reply's header.
func (c *connection) Complete(_ uint16, e uring.CQE) error {
	if e.Res <= 0 {
		return errors.New("the connection has ended")
	}
	if c.got += int(e.Res); c.got < replyHeader {
		return c.receive()
	}
	c.got = 0
	h := c.byTag[uint16(le.Uint32(c.reply))]
	return h.replied(unix.Errno(le.Uint32(c.reply[4:])))
}

type networkHandler struct {
	*connection
	r      *queue.Request
	header []byte
	mem    []byte
	phase  phase
}

type phase uint8

const (
	phaseSend    phase = iota
	phaseReply         // held
	phaseReceive       // the bytes of a read
)

func (h *networkHandler) Start(r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpRead, queue.OpWrite, queue.OpFlush:
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
	if h.sending {
		h.waiting = append(h.waiting, r)
		return queue.Hold, nil // started again when the connection is free
	}
	h.sending = true
	h.r, h.phase = r, phaseSend
	le.PutUint32(h.header, uint32(r.Op))
	le.PutUint32(h.header[4:], uint32(r.Tag()))
	le.PutUint32(h.header[8:], uint32(r.Len))
	le.PutUint64(h.header[12:], uint64(r.Off))
	r.Add(uring.Secondary{Op: uring.SecondarySend, FD: int32(h.fd), Mem: h.header, Link: r.Op == queue.OpWrite})
	if r.Op == queue.OpWrite {
		r.Add(uring.Secondary{Op: uring.SecondarySend, FD: int32(h.fd), Len: uint32(r.Len)})
	}
	return queue.Submit, nil
}

// sent makes room for the next request.
func (c *connection) sent() {
	c.sending = false
	if len(c.waiting) > 0 {
		c.q.Resume(c.waiting[0], queue.Again, nil)
		c.waiting = c.waiting[1:]
	}
}

func (h *networkHandler) Finish(r *queue.Request, err error) (queue.Action, error) {
	switch {
	case h.phase == phaseSend:
		h.sent()
		if err != nil {
			return queue.Answer, err
		}
		h.phase = phaseReply
		return queue.Hold, nil
	case errors.Is(err, unix.EINVAL) && !h.noFixed: // this kernel receives into memory only
		h.noFixed = true
		h.receiveBytes()
		return queue.Submit, nil
	}
	if err == nil && h.mem != nil {
		err = r.Fill(h.mem[:r.Len], 0)
	}
	return queue.Answer, errors.Join(err, h.receive())
}

// replied goes on with the request that a reply is for.
func (h *networkHandler) replied(errno unix.Errno) error {
	var err error
	if errno != 0 {
		err = errno
	}
	if err == nil && h.r.Op == queue.OpRead {
		h.phase = phaseReceive
		h.receiveBytes()
		h.q.Resume(h.r, queue.Submit, nil)
		return nil // the next header is behind the bytes
	}
	h.q.Resume(h.r, queue.Answer, err)
	return h.receive()
}

// receiveBytes adds the transfer of a read's bytes.
func (h *networkHandler) receiveBytes() {
	s := uring.Secondary{Op: uring.SecondaryRecv, FD: int32(h.fd), Len: uint32(h.r.Len)}
	h.mem = nil
	if h.noFixed {
		h.mem = make([]byte, h.r.Len)
		s.Mem = h.mem
	}
	h.r.Add(s)
}

func (*networkHandler) Work(context.Context, *queue.Request) (queue.Action, error) {
	return queue.Answer, queue.ErrInvalid
}

func (*networkHandler) Drop(*queue.Request) {}

// serveNetwork serves a disk in memory until the listener is closed and the connections have ended.
func serveNetwork(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		mem := make([]byte, size)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serveConnection(t, c, mem) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

// serveConnection answers the requests of a connection, flushes at once and the others a request
// late: out of order.
func serveConnection(t *testing.T, c net.Conn, mem []byte) {
	defer c.Close()
	var late []byte
	in := bufio.NewReader(c)
	for {
		h := make([]byte, requestHeader)
		if _, err := io.ReadFull(in, h); err != nil {
			return
		}
		op, n, off := queue.Op(le.Uint32(h)), le.Uint32(h[8:]), le.Uint64(h[12:])
		if off+uint64(n) > size {
			t.Errorf("%v of %d bytes at %d", op, n, off)
			return
		}
		answer := append(append([]byte(nil), h[4:8]...), 0, 0, 0, 0)
		switch op {
		case queue.OpWrite:
			if _, err := io.ReadFull(in, mem[off:off+uint64(n)]); err != nil {
				return
			}
		case queue.OpRead:
			answer = append(answer, mem[off:off+uint64(n)]...)
		default:
		}
		if late == nil && in.Buffered() > 0 { // another request is here: that one is answered first
			late = answer
			continue
		}
		if _, err := c.Write(append(answer, late...)); err != nil {
			return
		}
		late = nil
	}
}

func TestNetwork(t *testing.T) {
	targettest.Test(t, targettest.Options{
		Open:       func(t *testing.T) target.Target { return &network{t: t, addr: serveNetwork(t)} },
		NoFailures: true,
	})
}
