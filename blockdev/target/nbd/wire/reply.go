package wire

// Kind is what a reply, or a chunk of a structured one, says.
type Kind uint8

// Kinds.
const (
	Simple Kind = iota // the request is done: Errno; behind a read without error are its bytes
	None               // the request is done
	Data               // Len bytes from Off of the disk on follow
	Hole               // Len bytes from Off of the disk on are zero
	Status             // Extents of a BlockStatus
	Failed             // Errno and Text
)

// Reply is the header of a simple reply, or a chunk of a structured reply without the data.
type Reply struct {
	Kind   Kind
	Done   bool // no other chunk of the reply follows
	Cookie uint64
	Errno  Errno
	Off    uint64 // bytes
	Len    uint32 // bytes, not 0

	Text    []byte // of an error, for people; a part of what was parsed
	Context uint32 // of Status
	extents []byte
}

// Extent is a part of a disk, and its state in the metadata context that was asked for.
type Extent struct {
	Len   uint32 // bytes
	Flags uint32 // StateHole, StateZero
}

// States of base:allocation.
const (
	StateHole = 1 << 0 // not allocated
	StateZero = 1 << 1 // reads as zeroes
)

const (
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef

	chunkSize = 20

	flagDone = 1 << 0

	chunkNone        = 0
	chunkData        = 1
	chunkHole        = 2
	chunkStatus      = 5
	chunkErrors      = 1 << 15 // errors have this bit
	chunkError       = chunkErrors + 1
	chunkErrorOffset = chunkErrors + 2

	maxText    = 4096 // the protocol's limit of a string
	maxExtents = 512
)

// SimpleSize is the size in bytes of a simple reply, which is as much as every reply has.
const SimpleSize = 16

// MaxReply bounds in bytes what Reply is parsed from.
const MaxReply = chunkSize + max(6+maxText+8, 4+8*maxExtents)

// ReplyLen returns how many bytes have to be there for ParseReply: more than len(p), of which p are
// the first, or len(p) when they are all there. structured: the server may send structured replies.
func ReplyLen(p []byte, structured bool) (int, error) {
	if len(p) < SimpleSize {
		return SimpleSize, nil
	}
	switch magic := be.Uint32(p); {
	case magic == magicSimple:
		return SimpleSize, nil
	case magic != magicStructured || !structured:
		return 0, protocolError("a reply with the magic number %#x", magic)
	}
	kind := be.Uint16(p[6:])
	switch kind {
	case chunkData:
		return chunkSize + 8, nil
	case chunkHole:
		return chunkSize + 12, nil
	case chunkNone:
		return chunkSize, nil
	}
	if kind != chunkStatus && kind&chunkErrors == 0 {
		return 0, protocolError("a chunk of type %d", kind)
	}
	if len(p) < chunkSize {
		return chunkSize, nil
	}
	n := be.Uint32(p[16:])
	if kind == chunkStatus && (n < 12 || n > 4+8*maxExtents || n%8 != 4) || kind != chunkStatus && (n < 6 || n > 6+maxText+8) {
		return 0, protocolError("a chunk of type %d and %d bytes", kind, n)
	}
	return chunkSize + int(n), nil
}

// ParseReply decodes the bytes that ReplyLen has asked for.
func ParseReply(p []byte) (Reply, error) {
	r := Reply{Cookie: be.Uint64(p[8:])}
	if be.Uint32(p) == magicSimple {
		r.Kind, r.Done, r.Errno = Simple, true, Errno(be.Uint32(p[4:]))
		return r, nil
	}
	r.Done = be.Uint16(p[4:])&flagDone != 0
	kind, n, body := be.Uint16(p[6:]), be.Uint32(p[16:]), p[chunkSize:]
	wrong := protocolError("a chunk of type %d and %d bytes", kind, n)
	switch kind {
	case chunkNone:
		if r.Kind = None; n != 0 || !r.Done {
			return r, wrong
		}
	case chunkData:
		if n <= 8 {
			return r, wrong
		}
		r.Kind, r.Off, r.Len = Data, be.Uint64(body), n-8
	case chunkHole:
		r.Kind, r.Off, r.Len = Hole, be.Uint64(body), be.Uint32(body[8:])
		if n != 12 || r.Len == 0 {
			return r, wrong
		}
	case chunkStatus:
		r.Kind, r.Context, r.extents = Status, be.Uint32(body), body[4:]
	default:
		text := int(be.Uint16(body[4:]))
		rest := len(body) - 6 - text
		if rest < 0 || kind == chunkError && rest != 0 || kind == chunkErrorOffset && rest != 8 {
			return r, wrong
		}
		r.Kind, r.Errno, r.Text = Failed, Errno(be.Uint32(body)), body[6:6+text]
		if r.Errno == 0 {
			return r, protocolError("an error chunk without an error")
		}
	}
	return r, nil
}

// Extents returns the extents of a Status, in order from the request's offset on.
func (r *Reply) Extents() ([]Extent, error) {
	list := make([]Extent, 0, len(r.extents)/8)
	for p := r.extents; len(p) >= 8; p = p[8:] {
		e := Extent{be.Uint32(p), be.Uint32(p[4:])}
		if e.Len == 0 {
			return nil, protocolError("an extent without bytes")
		}
		list = append(list, e)
	}
	return list, nil
}
