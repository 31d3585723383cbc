package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/nbd/wire"
)

// dialLimit bounds how long a connection and its handshake may take.
const dialLimit = 10 * time.Second

// link is a connection on which requests can be sent.
type link struct {
	file   *os.File // blocking, as a ring wants it
	fd     int
	export *wire.Export
	zc     bool // SEND_ZC works
	bridge *bridge
}

func (l *link) close() error {
	err := l.file.Close()
	if l.bridge != nil {
		l.bridge.close()
	}
	return err
}

// dialer makes links to one export.
type dialer struct {
	addr    Address
	tls     *tls.Config // nil: no TLS
	timeout time.Duration
	zc      bool // the kernel has SEND_ZC
}

func (d *dialer) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, d.addr.Network, d.addr.Host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	l, err := d.agree(conn)
	if err == nil && !stop() {
		err = errors.Join(ctx.Err(), l.close())
	}
	if err != nil {
		if cerr := ctx.Err(); cerr != nil {
			err = fmt.Errorf("the server does not finish the handshake: %w", cerr)
		}
		return nil, errors.Join(err, ignoreClosed(conn.Close()))
	}
	return l, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// agree does the handshake on a connection, which belongs to the link afterwards.
func (d *dialer) agree(conn net.Conn) (*link, error) {
	var encrypted *tls.Conn
	o := wire.Options{Export: d.addr.Export}
	if d.tls != nil {
		o.StartTLS = func() (io.ReadWriter, error) {
			encrypted = tls.Client(conn, d.tls)
			if err := encrypted.Handshake(); err != nil {
				return nil, fmt.Errorf("TLS: %w", err)
			}
			return encrypted, nil
		}
	}
	export, err := wire.Handshake(conn, o)
	if err != nil {
		return nil, err
	}
	l := &link{export: export}
	if encrypted != nil {
		l.bridge, l.file, err = newBridge(encrypted)
	} else {
		l.file, err = d.takeSocket(conn)
		l.zc = d.zc && d.addr.Network == "tcp"
	}
	if err != nil {
		return nil, err
	}
	l.fd = int(l.file.Fd()) // blocking from now on
	return l, nil
}

// takeSocket takes the socket from the runtime's poller.
func (d *dialer) takeSocket(conn net.Conn) (*os.File, error) {
	f, err := conn.(interface{ File() (*os.File, error) }).File() //nolint:forcetypeassert // TCP or Unix, which have it
	if err != nil {
		return nil, err
	}
	if err = conn.Close(); err == nil && d.addr.Network == "tcp" {
		err = d.keepAlive(int(f.Fd()))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// keepAlive has the kernel notice a peer that is gone, so that it gives up the pages that it holds for
// it.
func (d *dialer) keepAlive(fd int) error {
	seconds := max(1, int(d.timeout/time.Second/4))
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.timeout/time.Millisecond)),
	)
}

// bridge moves bytes between an encrypted connection and a pair of sockets.
type bridge struct {
	encrypted *tls.Conn
	plain     net.Conn
	moving    sync.WaitGroup
}

// newBridge returns the bridge and the end of the pair that is for the ring.
func newBridge(encrypted *tls.Conn) (*bridge, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	far, near := os.NewFile(uintptr(pair[0]), "nbd-tls"), os.NewFile(uintptr(pair[1]), "nbd")
	plain, err := net.FileConn(far)
	if err = errors.Join(err, far.Close()); err != nil {
		return nil, nil, errors.Join(err, near.Close())
	}
	b := &bridge{encrypted: encrypted, plain: plain}
	b.moving.Go(func() { b.move(encrypted, plain) })
	b.moving.Go(func() { b.move(plain, encrypted) })
	return b, near, nil
}

// move copies until one of the two ends; then both do.
func (b *bridge) move(to io.Writer, from io.Reader) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 256<<10))
	b.end()
}

func (b *bridge) end() { _, _ = b.plain.Close(), b.encrypted.NetConn().Close() }

func (b *bridge) close() {
	b.end()
	b.moving.Wait()
}
