package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"varve/blockdev/target"
	"varve/blockdev/target/nbd/wire"
	"varve/uring"
	"varve/uring/queue"
)

// Bounds of Options.
const (
	DefaultTimeout        = time.Minute
	DefaultRequestTimeout = 5 * time.Minute
	MaxTimeout            = 24 * time.Hour // of both
	MaxConnections        = 64

	maxBlock = 4096
)

// Options for Open. Zero means the default.
type Options struct {
	Connections int           // in all; 0: one for each queue
	Timeout     time.Duration // how long a request may go without an answer once it has lost its connection
	// RequestTimeout is how long the server may take to answer a request, or to go on with its answer:
	// then the connection is given up. A slow server needs a long one: a flush may take minutes.
	RequestTimeout time.Duration

	BlockSize int          // 512 or 4096; 0: what the server wants
	ReadOnly  bool         // write nothing
	TLS       Certificates // for nbds:// and nbds+unix://
	Logger    *slog.Logger // is told about lost connections; nil: slog.Default()

	backoff time.Duration // the first pause between two tries to connect
	noZC    bool          // for tests: as if the kernel had no SEND_ZC
}

// Target is an export as a disk.
type Target struct {
	dialer dialer
	opts   Options
	export wire.Export // as it was when it was opened
	lim    target.Limits
	recvs  bool // the kernel receives into registered buffers

	mu    sync.Mutex
	first *link // made by Open, for the first part that wants it

	lost atomic.Uint64
}

// Open connects to an export. Errors of the address and of what the export is are queue.ErrInvalid.
func Open(ctx context.Context, uri string, o Options) (*Target, error) {
	a, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	if err := o.check(&a); err != nil {
		return nil, err
	}
	t := &Target{opts: o, dialer: dialer{addr: a, timeout: o.Timeout}}
	if a.TLS {
		if t.dialer.tls, err = o.TLS.in(a.Certs).config(); err != nil {
			return nil, err
		}
		if t.dialer.tls.ServerName == "" {
			t.dialer.tls.ServerName = a.Name
		}
	}
	buffers, err := uring.ProbeSocketBuffers()
	if err != nil {
		return nil, err
	}
	t.recvs, t.dialer.zc = buffers.Recv, buffers.SendZC && !o.noZC
	if t.first, err = t.dialer.dial(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	t.export = *t.first.export
	if t.lim, err = limits(&t.export, &o); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", uri, err), t.Close())
	}
	return t, nil
}

// check fills in defaults and returns an error if no disk could be so.
func (o *Options) check(a *Address) error {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = DefaultRequestTimeout
	}
	if o.backoff == 0 {
		o.backoff = 100 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	switch {
	case o.Timeout < 0 || o.Timeout > MaxTimeout:
		return fmt.Errorf("%w: timeout %v; use up to %v", queue.ErrInvalid, o.Timeout, MaxTimeout)
	case o.RequestTimeout < 0 || o.RequestTimeout > MaxTimeout:
		return fmt.Errorf("%w: request timeout %v; use up to %v", queue.ErrInvalid, o.RequestTimeout, MaxTimeout)
	case o.Connections < 0 || o.Connections > MaxConnections:
		return fmt.Errorf("%w: %d connections; use 1 to %d", queue.ErrInvalid, o.Connections, MaxConnections)
	case o.TLS != Certificates{} && !a.TLS:
		return fmt.Errorf("%w: certificates are for nbds:// and nbds+unix://", queue.ErrInvalid)
	}
	return nil
}

// limits are those of the disk that an export is.
func limits(e *wire.Export, o *Options) (target.Limits, error) {
	l := target.Limits{
		Size: int64(e.Size), BlockSize: o.BlockSize, ReadOnly: o.ReadOnly, Cache: e.Has(wire.CanFlush),
		Discard: !o.ReadOnly && e.Has(wire.CanTrim), Zeroes: !o.ReadOnly && e.Has(wire.CanZero),
		MaxIO: int(min(e.MaxBlock, 1<<30) &^ (maxBlock - 1)), Queues: o.Connections,
	}
	many := e.Has(wire.CanMulti) || o.ReadOnly
	switch {
	case e.MinBlock > maxBlock:
		return l, fmt.Errorf("%w: the server wants blocks of %d bytes; a device has 512 or 4096", queue.ErrInvalid, e.MinBlock)
	case o.BlockSize != 0 && o.BlockSize < int(e.MinBlock):
		return l, fmt.Errorf("%w: block size %d; the server wants at least %d", queue.ErrInvalid, o.BlockSize, e.MinBlock)
	case l.MaxIO == 0:
		return l, fmt.Errorf("%w: the server takes requests of at most %d bytes; a device needs %d", queue.ErrInvalid, e.MaxBlock, maxBlock)
	case e.Has(wire.ReadOnly) && !o.ReadOnly:
		return l, fmt.Errorf("%w: the export is read-only; use --read-only", queue.ErrInvalid)
	case !many && o.Connections > 1:
		return l, fmt.Errorf("%w: %d connections; the server allows one, since its connections do not see each other's writes",
			queue.ErrInvalid, o.Connections)
	case !many:
		l.Queues = 1
	}
	if l.BlockSize == 0 && e.MinBlock > target.SectorSize {
		l.BlockSize = maxBlock
	}
	l.EnsureDefaults()
	return l, l.Validate()
}

// fits returns an error unless an export can take the place of the one that was opened.
func (t *Target) fits(e *wire.Export) error {
	was := &t.export
	need := was.Flags & (wire.CanFlush | wire.CanFUA | wire.CanTrim | wire.CanZero)
	if t.lim.Queues != 1 && !t.opts.ReadOnly {
		need |= wire.CanMulti
	}
	switch {
	case e.Size < was.Size:
		return fmt.Errorf("the export has %d bytes now, and had %d", e.Size, was.Size)
	case e.Has(wire.ReadOnly) && !t.opts.ReadOnly:
		return errors.New("the export is read-only now")
	case e.Flags&need != need:
		return fmt.Errorf("the server can do less now: flags %#x instead of %#x", e.Flags, was.Flags)
	case int(e.MinBlock) > t.lim.BlockSize || int(min(e.MaxBlock, 1<<30)) < t.lim.MaxIO:
		return fmt.Errorf("the server wants blocks of %d to %d bytes now", e.MinBlock, e.MaxBlock)
	}
	return nil
}

// Close closes what no part has taken. The device has ended.
func (t *Target) Close() error {
	if l := t.takeFirst(); l != nil {
		return l.close()
	}
	return nil
}

func (t *Target) takeFirst() *link {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.first
	t.first = nil
	return l
}

// Limits implements target.Target.
func (t *Target) Limits() target.Limits { return t.lim }

// Notes say what the server can't do.
func (t *Target) Notes() []string {
	var notes []string
	if !t.lim.Cache && !t.lim.ReadOnly {
		notes = append(notes, "the server knows no flush: what is written is durable when the server makes it so")
	}
	if t.lim.Queues == 1 && t.opts.Connections == 0 {
		notes = append(notes, "one connection and one queue: the server's connections do not see each other's writes")
	}
	return notes
}

// Lost counts the connections that were lost.
func (t *Target) Lost() uint64 { return t.lost.Load() }
