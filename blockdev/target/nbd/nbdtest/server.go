// Package nbdtest is an NBD server in memory, for tests: it answers in any order, in pieces and with
// holes, and does wrong what it is told to.
package nbdtest

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"varve/blockdev/target/nbd/wire"
)

var be = binary.BigEndian

// Options of a Server. Zero: a writable disk with all that a server may offer, plain replies in order.
type Options struct {
	Size       int         // bytes; 1 MiB
	Without    uint16      // flags that are not offered
	Flags      uint16      // others, such as wire.ReadOnly
	Structured bool        // structured replies, in pieces and with holes
	Mixed      bool        // replies out of order
	MinBlock   uint32      // 512
	MaxBlock   uint32      // 32 MiB
	TLS        *tls.Config // wanted of every client
	NoGo       bool        // only the option EXPORT_NAME
	Unix       string      // the path of a socket to listen on, instead of TCP

	// Spoil is shown each reply, whole, and returns what is sent instead; an error ends the
	// connection.
	Spoil func(r wire.Request, reply []byte) ([]byte, error)
}

// Server serves a disk. Its fields may be read when nothing is under way.
type Server struct {
	Addr string
	Disk []byte

	Flushes, Connections atomic.Int64

	o        Options
	listener net.Listener
	serving  sync.WaitGroup

	mu     sync.Mutex // guards Disk, conns and spoil
	conns  map[net.Conn]bool
	spoil  func(wire.Request, []byte) ([]byte, error)
	silent bool
}

// Start serves until the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Size == 0 {
		o.Size = 1 << 20
	}
	if o.MinBlock == 0 {
		o.MinBlock = 512
	}
	if o.MaxBlock == 0 {
		o.MaxBlock = 32 << 20
	}
	network, addr := "tcp", "127.0.0.1:0"
	if o.Unix != "" {
		network, addr = "unix", o.Unix
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: l.Addr().String(), Disk: make([]byte, o.Size), o: o, listener: l, conns: map[net.Conn]bool{}, spoil: o.Spoil}
	s.serving.Go(s.accept)
	t.Cleanup(func() {
		_ = l.Close()
		s.Kill()
		s.serving.Wait()
	})
	return s
}

// URI is the address of the default export.
func (s *Server) URI() string { return "nbd://" + s.Addr }

// Kill ends all connections at once.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// SetSpoil replaces Options.Spoil.
func (s *Server) SetSpoil(f func(wire.Request, []byte) ([]byte, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spoil = f
}

// Refuse has the server end new connections at once, or take them again.
func (s *Server) Refuse(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = on
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		refuse := s.silent
		if !refuse {
			s.conns[c] = true
		}
		s.mu.Unlock()
		if refuse {
			_ = c.Close()
			continue
		}
		s.Connections.Add(1)
		s.serving.Go(func() {
			s.serve(c)
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

func (s *Server) flags() uint16 {
	all := uint16(wire.HasFlags | wire.CanFlush | wire.CanFUA | wire.CanTrim | wire.CanZero | wire.CanMulti | wire.CanFastZero)
	return all&^s.o.Without | s.o.Flags
}

// serve does the handshake and answers requests until the client goes.
func (s *Server) serve(c net.Conn) {
	rw, structured, err := s.handshake(c)
	if err != nil {
		return
	}
	in, late := bufio.NewReader(rw), []byte(nil)
	for {
		p := make([]byte, wire.RequestSize)
		if _, err := io.ReadFull(in, p); err != nil {
			return
		}
		r, err := wire.ParseRequest(p)
		if err != nil || r.Type == wire.Disconnect {
			return
		}
		var data []byte
		if r.Type == wire.Write {
			data = make([]byte, r.Len)
			if _, err := io.ReadFull(in, data); err != nil {
				return
			}
		}
		answer, err := s.answer(r, data, structured)
		if err != nil {
			return
		}
		if s.o.Mixed && late == nil && in.Buffered() > 0 { // another request is here: that one is answered first
			late = answer
			continue
		}
		if _, err := rw.Write(append(answer, late...)); err != nil {
			return
		}
		late = nil
	}
}

// answer does what is asked for and returns the reply.
func (s *Server) answer(r wire.Request, data []byte, structured bool) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var reply []byte
	switch end := r.Off + uint64(r.Len); {
	case end > uint64(len(s.Disk)) || r.Len == 0 && r.Type != wire.Flush:
		reply = SimpleReply(r.Cookie, 22)
	case r.Type == wire.Read && structured:
		reply = Pieces(r.Cookie, r.Off, s.Disk[r.Off:end])
	case r.Type == wire.Read:
		reply = append(SimpleReply(r.Cookie, 0), s.Disk[r.Off:end]...)
	default:
		switch r.Type {
		case wire.Write:
			copy(s.Disk[r.Off:], data)
		case wire.Trim, wire.WriteZeroes:
			clear(s.Disk[r.Off:end])
		case wire.Flush:
			s.Flushes.Add(1)
		default:
			return nil, errors.New("unknown command")
		}
		if reply = SimpleReply(r.Cookie, 0); structured && r.Off%1024 == 0 {
			reply = Chunk(r.Cookie, true, 0, nil)
		}
	}
	if s.spoil != nil {
		return s.spoil(r, reply)
	}
	return reply, nil
}

// SimpleReply is the header of a simple reply.
func SimpleReply(cookie uint64, errno uint32) []byte {
	return be.AppendUint64(be.AppendUint32(be.AppendUint32(nil, 0x67446698), errno), cookie)
}

// Chunk is a chunk of a structured reply.
func Chunk(cookie uint64, done bool, kind uint16, body []byte) []byte {
	p := be.AppendUint32(nil, 0x668e33ef)
	flags := uint16(0)
	if done {
		flags = 1
	}
	p = be.AppendUint16(be.AppendUint16(p, flags), kind)
	return append(be.AppendUint32(be.AppendUint64(p, cookie), uint32(len(body))), body...)
}

// Pieces is the structured reply to a read, in pieces, the last part first, with holes where there are
// zeroes.
func Pieces(cookie, off uint64, p []byte) []byte {
	const piece = 8 << 10
	var reply []byte
	for at := (len(p) - 1) / piece * piece; at >= 0; at -= piece {
		part, where := p[at:min(at+piece, len(p))], be.AppendUint64(nil, off+uint64(at))
		if isZero(part) {
			reply = append(reply, Chunk(cookie, false, 2, be.AppendUint32(where, uint32(len(part))))...)
		} else {
			reply = append(reply, Chunk(cookie, at == 0, 1, append(where, part...))...)
			if at == 0 {
				return reply
			}
		}
	}
	return append(reply, Chunk(cookie, true, 0, nil)...)
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
