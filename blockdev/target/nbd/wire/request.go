package wire

import "encoding/binary"

var be = binary.BigEndian

// Command is the type of a request.
type Command uint16

// Commands.
const (
	Read Command = iota
	Write
	Disconnect // has no reply
	Flush
	Trim
	Cache
	WriteZeroes
	BlockStatus
)

// Flags of a request.
const (
	FlagFUA      = 1 << 0 // durable before the reply
	FlagNoHole   = 1 << 1 // WriteZeroes: keep the space allocated
	FlagFastZero = 1 << 4 // WriteZeroes: fail with ENOTSUP rather than write zeroes slowly
)

// RequestSize is the size of a request's header in bytes.
const RequestSize = 28

const magicRequest = 0x25609513

// Request is what a client asks for.
type Request struct {
	Flags  uint16
	Type   Command
	Cookie uint64 // comes back in the reply
	Off    uint64 // bytes
	Len    uint32 // bytes
}

// Put encodes the header into p, which has RequestSize bytes.
func (r *Request) Put(p []byte) {
	_ = p[RequestSize-1]
	be.PutUint32(p, magicRequest)
	be.PutUint16(p[4:], r.Flags)
	be.PutUint16(p[6:], uint16(r.Type))
	be.PutUint64(p[8:], r.Cookie)
	be.PutUint64(p[16:], r.Off)
	be.PutUint32(p[24:], r.Len)
}

// ParseRequest decodes a header of RequestSize bytes, as a server does.
func ParseRequest(p []byte) (Request, error) {
	if len(p) != RequestSize || be.Uint32(p) != magicRequest {
		return Request{}, protocolError("a request without its magic number")
	}
	return Request{
		Flags: be.Uint16(p[4:]), Type: Command(be.Uint16(p[6:])),
		Cookie: be.Uint64(p[8:]), Off: be.Uint64(p[16:]), Len: be.Uint32(p[24:]),
	}, nil
}
