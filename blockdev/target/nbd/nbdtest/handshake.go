package nbdtest

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
)

var errRefused = errors.New("refused")

// handshake serves options until the client has chosen the export.
func (s *Server) handshake(c net.Conn) (rw io.ReadWriter, structured bool, err error) {
	rw = c
	hello := append([]byte("NBDMAGICIHAVEOPT"), 0, 3)
	if _, err := rw.Write(hello); err != nil {
		return nil, false, err
	}
	if _, err := io.ReadFull(rw, make([]byte, 4)); err != nil {
		return nil, false, err
	}
	secret := false
	for {
		head := make([]byte, 16)
		if _, err := io.ReadFull(rw, head); err != nil {
			return nil, false, err
		}
		opt := be.Uint32(head[8:])
		data := make([]byte, min(be.Uint32(head[12:]), 64<<10))
		if _, err := io.ReadFull(rw, data); err != nil {
			return nil, false, err
		}
		reply := func(kind uint32, p []byte) {
			m := be.AppendUint64(nil, 0x0003e889045565a9)
			m = be.AppendUint32(be.AppendUint32(be.AppendUint32(m, opt), kind), uint32(len(p)))
			if err == nil {
				_, err = rw.Write(append(m, p...))
			}
		}
		const ack, unsupported, tlsRequired = 1, 1<<31 + 1, 1<<31 + 5
		switch {
		case opt == 5 && s.o.TLS != nil:
			reply(ack, nil)
			rw, secret = tls.Server(c, s.o.TLS), true
		case s.o.TLS != nil && !secret:
			reply(tlsRequired, []byte("TLS first"))
		case opt == 1:
			p := be.AppendUint16(be.AppendUint64(nil, uint64(len(s.Disk))), s.flags())
			_, err = rw.Write(p)
			return rw, structured, err
		case opt == 8 && s.o.Structured:
			structured = true
			reply(ack, nil)
		case opt == 10 && structured:
			reply(4, append(be.AppendUint32(nil, 7), "base:allocation"...))
			reply(ack, nil)
		case opt == 7 && !s.o.NoGo && string(data[4:4+be.Uint32(data)]) != "":
			reply(1<<31+6, []byte("what?"))
		case opt == 7 && !s.o.NoGo:
			info := be.AppendUint16(nil, 0)
			reply(3, be.AppendUint16(be.AppendUint64(info, uint64(len(s.Disk))), s.flags()))
			info = be.AppendUint16(nil, 3)
			reply(3, be.AppendUint32(be.AppendUint32(be.AppendUint32(info, s.o.MinBlock), max(4096, s.o.MinBlock)), s.o.MaxBlock))
			reply(ack, nil)
			return rw, structured, err
		case opt == 3:
			reply(2, append(be.AppendUint32(nil, 11), "the default"...))
			reply(ack, nil)
		case opt == 2:
			return nil, false, errRefused
		default:
			reply(unsupported, nil)
		}
		if err != nil {
			return nil, false, err
		}
	}
}
