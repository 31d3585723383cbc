package wire

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"
)

// Magic numbers of the handshake.
const (
	magicServer   = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   = 0x49484156454f5054 // "IHAVEOPT"
	magicOldstyle = 0x0000420281861253
	magicReply    = 0x0003e889045565a9
)

// Handshake flags, of both sides.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// option is what a client asks for before it uses an export.
type option uint32

const (
	optExportName  option = 1
	optAbort       option = 2
	optList        option = 3
	optStartTLS    option = 5
	optGo          option = 7
	optStructured  option = 8
	optMetaContext option = 10
)

// Replies to options. Errors have the highest bit.
const (
	replyAck     = 1
	replyServer  = 2
	replyInfo    = 3
	replyContext = 4
	replyErrors  = 1 << 31

	replyUnsupported = replyErrors + 1
	replyInvalid     = replyErrors + 3
	replyTLSRequired = replyErrors + 5
	replyUnknown     = replyErrors + 6
)

// Kinds of information on an export.
const (
	infoExport    = 0
	infoBlockSize = 3
)

const (
	maxName    = 4096     // bytes: the protocol's limit of a string
	maxOption  = 32 << 10 // bytes of a reply to an option: more than two strings
	maxReplies = 1024     // of one option
	listShown  = 8        // names of exports in an error

	allocation = "base:allocation"
)

// Flags of an export.
const (
	HasFlags    = 1 << 0
	ReadOnly    = 1 << 1
	CanFlush    = 1 << 2
	CanFUA      = 1 << 3
	CanTrim     = 1 << 5
	CanZero     = 1 << 6
	CanMulti    = 1 << 8 // connections see each other's writes, and a flush is of all
	CanFastZero = 1 << 11
)

// Export is a disk of a server, as the handshake has described it.
type Export struct {
	Size  uint64 // bytes
	Flags uint16 // HasFlags to CanFastZero

	// Sizes in bytes that the server asks for: of blocks, and of the largest request with data.
	MinBlock, PreferredBlock, MaxBlock uint32

	Structured bool   // the server sends structured replies
	Allocation uint32 // the context of base:allocation in a Status
	Extents    bool   // there is such a context
}

// Has reports whether the export has a flag.
func (e *Export) Has(flag uint16) bool { return e.Flags&flag != 0 }

// Options for a Handshake.
type Options struct {
	Export string // the name; "" is the server's default
	// StartTLS encrypts the stream once the server is ready for it; nil: no encryption.
	StartTLS func() (io.ReadWriter, error)
}

// RefusedError is a server's refusal of an option.
type RefusedError struct {
	What string // "export \"disk\""
	Code uint32 // the protocol's NBD_REP_ERR_*
	Text string // the server's
}

var refusals = map[uint32]string{
	replyUnsupported: "the server does not know the option", replyErrors + 2: "the server's policy forbids it",
	replyInvalid: "the server calls the option invalid", replyErrors + 4: "the server's platform can't do it",
	replyTLSRequired: "the server wants TLS: use nbds://", replyUnknown: "the server has no such export",
	replyErrors + 7: "the server is shutting down", replyErrors + 8: "the server wants its block size kept",
}

func (e *RefusedError) Error() string {
	why, known := refusals[e.Code]
	if !known {
		why = fmt.Sprintf("the server answers error %d", e.Code&^replyErrors)
	}
	if e.Text != "" {
		why += fmt.Sprintf(" (it says %q)", e.Text)
	}
	return e.What + ": " + why
}

// Handshake agrees with a server on an export; afterwards requests may be sent. It reads no byte too
// many. Errors: *RefusedError, ErrProtocol, those of the stream and of StartTLS. The caller bounds the
// time.
func Handshake(rw io.ReadWriter, o Options) (*Export, error) {
	if len(o.Export) > maxName {
		return nil, fmt.Errorf("an export's name of %d bytes; the protocol has at most %d", len(o.Export), maxName)
	}
	h := &handshake{rw: rw}
	if err := h.greet(); err != nil {
		return nil, err
	}
	if o.StartTLS != nil {
		if err := h.ask(optStartTLS, nil, "TLS", nil); err != nil {
			return nil, err
		}
		encrypted, err := o.StartTLS()
		if err != nil {
			return nil, err
		}
		h.rw = encrypted
	}
	e := &Export{MinBlock: 512, PreferredBlock: 4096, MaxBlock: 32 << 20}
	if err := h.structured(e, o.Export); err != nil {
		return nil, err
	}
	if err := h.enter(e, o.Export); err != nil {
		return nil, err
	}
	return e, e.check()
}

// check returns an error if no disk could be so.
func (e *Export) check() error {
	if e.Flags&HasFlags == 0 {
		e.Flags = 0
	}
	power := func(n uint32) bool { return bits.OnesCount32(n) == 1 }
	switch {
	case !power(e.MinBlock) || e.MinBlock > 64<<10,
		!power(e.PreferredBlock) || e.PreferredBlock < e.MinBlock,
		e.MaxBlock != 1<<32-1 && e.MaxBlock%e.MinBlock != 0, e.MaxBlock < e.PreferredBlock:
		return protocolError("blocks of %d to %d bytes, best %d", e.MinBlock, e.MaxBlock, e.PreferredBlock)
	case e.Size > 1<<63-1:
		return protocolError("an export of %d bytes", e.Size)
	}
	return nil
}

// handshake is the stream while options are agreed on.
type handshake struct {
	rw       io.ReadWriter
	noZeroes bool
}

func (h *handshake) read(n int) ([]byte, error) {
	p := make([]byte, n)
	_, err := io.ReadFull(h.rw, p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return p, err
}

// greet reads the server's greeting and answers.
func (h *handshake) greet() error {
	p, err := h.read(16)
	if err != nil {
		return fmt.Errorf("read the server's greeting: %w", err)
	}
	switch {
	case be.Uint64(p) != magicServer:
		return protocolError("no NBD server answers: it begins with %q", p[:8])
	case be.Uint64(p[8:]) == magicOldstyle:
		return errors.New("the server speaks the oldstyle protocol, which names no exports; start it with the newstyle one")
	case be.Uint64(p[8:]) != magicOption:
		return protocolError("a greeting with the magic number %#x", be.Uint64(p[8:]))
	}
	if p, err = h.read(2); err != nil {
		return fmt.Errorf("read the server's greeting: %w", err)
	}
	flags := be.Uint16(p)
	if flags&flagFixedNewstyle == 0 {
		return errors.New("the server does not speak the fixed newstyle protocol")
	}
	h.noZeroes = flags&flagNoZeroes != 0
	_, err = h.rw.Write(be.AppendUint32(nil, uint32(flags&(flagFixedNewstyle|flagNoZeroes))))
	return err
}

// structured asks for structured replies and the context of holes, which a server may lack.
func (h *handshake) structured(e *Export, name string) error {
	err := h.ask(optStructured, nil, "structured replies", nil)
	if err != nil {
		return unlessUnknown(err)
	}
	e.Structured = true
	data := appendString(nil, name)
	data = be.AppendUint32(data, 1)
	data = appendString(data, allocation)
	err = h.ask(optMetaContext, data, "metadata context", func(kind uint32, p []byte) error {
		if kind != replyContext || len(p) < 4 {
			return protocolError("a reply of type %d to a metadata context", kind)
		}
		if string(p[4:]) == allocation {
			e.Allocation, e.Extents = be.Uint32(p), true
		}
		return nil
	})
	return unlessUnknown(err)
}

// unlessUnknown drops the error of a server that can't do what was asked for.
func unlessUnknown(err error) error {
	if r := (*RefusedError)(nil); errors.As(err, &r) && r.Code != replyTLSRequired {
		return nil
	}
	return err
}

// enter chooses the export.
func (h *handshake) enter(e *Export, name string) error {
	data := appendString(nil, name)
	data = be.AppendUint16(data, 1)
	data = be.AppendUint16(data, infoBlockSize)
	described := false
	what := fmt.Sprintf("export %q", name)
	err := h.ask(optGo, data, what, func(kind uint32, p []byte) error {
		if kind != replyInfo || len(p) < 2 {
			return protocolError("a reply of type %d to the choice of an export", kind)
		}
		switch info, p := be.Uint16(p), p[2:]; info {
		case infoExport:
			if len(p) != 10 {
				return protocolError("a description of an export of %d bytes", len(p))
			}
			e.Size, e.Flags, described = be.Uint64(p), be.Uint16(p[8:]), true
		case infoBlockSize:
			if len(p) != 12 {
				return protocolError("block sizes of %d bytes", len(p))
			}
			e.MinBlock, e.PreferredBlock, e.MaxBlock = be.Uint32(p), be.Uint32(p[4:]), be.Uint32(p[8:])
		}
		return nil
	})
	if r := (*RefusedError)(nil); errors.As(err, &r) {
		switch r.Code {
		case replyUnsupported:
			return h.enterByName(e, name)
		case replyUnknown:
			return h.withExports(err)
		}
	}
	if err == nil && !described {
		err = protocolError("an export without a description")
	}
	return err
}

// enterByName is for servers without the option GO.
func (h *handshake) enterByName(e *Export, name string) error {
	if err := h.send(optExportName, []byte(name)); err != nil {
		return err
	}
	n := 10
	if !h.noZeroes {
		n += 124
	}
	p, err := h.read(n)
	if err != nil {
		return fmt.Errorf("export %q: the server has ended the connection, perhaps because it has no such export: %w", name, err)
	}
	e.Size, e.Flags = be.Uint64(p), be.Uint16(p[8:])
	return nil
}

// withExports adds the names of the exports to the error of one that does not exist.
func (h *handshake) withExports(err error) error {
	var names []string
	lerr := h.ask(optList, nil, "list of exports", func(kind uint32, p []byte) error {
		if kind != replyServer || len(p) < 4 || be.Uint32(p) > uint32(len(p)-4) {
			return protocolError("a reply of type %d to a list of exports", kind)
		}
		switch {
		case len(names) < listShown:
			names = append(names, fmt.Sprintf("%q", p[4:4+be.Uint32(p)]))
		case len(names) == listShown:
			names = append(names, "and more")
		}
		return nil
	})
	_ = h.send(optAbort, nil) // a courtesy
	if lerr != nil || len(names) == 0 {
		return err
	}
	return fmt.Errorf("%w; it has %s", err, strings.Join(names, ", "))
}

func appendString(p []byte, s string) []byte {
	return append(be.AppendUint32(p, uint32(len(s))), s...)
}

func (h *handshake) send(opt option, data []byte) error {
	p := be.AppendUint64(nil, magicOption)
	p = be.AppendUint32(p, uint32(opt))
	p = be.AppendUint32(p, uint32(len(data)))
	_, err := h.rw.Write(append(p, data...))
	return err
}

// ask sends an option and hands all replies before the last one to take. A *RefusedError: the server
// does not agree.
func (h *handshake) ask(opt option, data []byte, what string, take func(kind uint32, p []byte) error) error {
	if err := h.send(opt, data); err != nil {
		return err
	}
	for range maxReplies {
		head, err := h.read(20)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		kind, n := be.Uint32(head[12:]), be.Uint32(head[16:])
		if be.Uint64(head) != magicReply || option(be.Uint32(head[8:])) != opt || n > maxOption {
			return protocolError("%s: a reply of %d bytes to option %d", what, n, be.Uint32(head[8:]))
		}
		p, err := h.read(int(n))
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		switch {
		case kind == replyAck:
			return nil
		case kind&replyErrors != 0:
			return &RefusedError{What: what, Code: kind, Text: string(p[:min(len(p), 200)])}
		case take == nil:
			return protocolError("%s: a reply of type %d", what, kind)
		}
		if err := take(kind, p); err != nil {
			return err
		}
	}
	return protocolError("%s: more than %d replies", what, maxReplies)
}
