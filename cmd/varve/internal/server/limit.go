package server

import (
	"context"
	"fmt"
	"net"
	"sync"

	"varve/cmd/varve/internal/protocol"
)

// Limits of the socket. They are for programs that misbehave, not against attackers: a user who can
// open the socket can do worse to the store's files.
const (
	// maxConnections is the number of connections that are served at once, each with one request at
	// a time.
	maxConnections = 64
	// maxOverLimit is the number of further connections that are answered with an error. Others
	// wait in the socket's backlog.
	maxOverLimit = 64
)

type overLimitKey struct{} // bool: the connection is over the limit

// listener limits the connections of a socket. (netutil.LimitListener hides the *net.UnixConn,
// which knows the peer and passes files.)
type listener struct {
	net.Listener
	mu                sync.Mutex
	served, overLimit int           // connections; guarded by mu
	freed             chan struct{} // closed when a connection ends; guarded by mu; nil: Accept does not wait

	once sync.Once
	shut chan struct{} // closed by Close
}

// Limit limits the connections of a listener.
func Limit(l net.Listener) net.Listener { return limit(l) }

func limit(l net.Listener) *listener { return &listener{Listener: l, shut: make(chan struct{})} }

// Close also ends Accept.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.shut) })
	return l.Listener.Close()
}

// Accept returns the next connection, which may be over the limit, and waits while there are
// maxOverLimit of these. It has one caller.
func (l *listener) Accept() (net.Conn, error) {
	for freed := l.full(); freed != nil; freed = l.full() {
		select {
		case <-freed:
		case <-l.shut:
			return nil, net.ErrClosed
		}
	}
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.count(c), nil
}

// full returns a channel that is closed when a connection ends, or nil if there is room.
func (l *listener) full() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.served < maxConnections || l.overLimit < maxOverLimit {
		return nil
	}
	if l.freed == nil {
		l.freed = make(chan struct{})
	}
	return l.freed
}

func (l *listener) count(c net.Conn) *connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &connection{Conn: c, listener: l, overLimit: l.served >= maxConnections}
	if k.overLimit {
		l.overLimit++
	} else {
		l.served++
	}
	return k
}

func (l *listener) uncount(k *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.overLimit {
		l.overLimit--
	} else {
		l.served--
	}
	if l.freed != nil {
		close(l.freed)
		l.freed = nil
	}
}

// connection is counted until it is closed.
type connection struct {
	net.Conn
	listener  *listener
	overLimit bool
	once      sync.Once
}

// Close closes the connection and makes room for another.
func (c *connection) Close() error {
	c.release()
	return c.Conn.Close()
}

func (c *connection) release() {
	c.once.Do(func() { c.listener.uncount(c) })
}

// Unwrap returns the connection below one that this package has accepted, and a function that makes
// room for another connection while it stays open.
func Unwrap(c net.Conn) (below net.Conn, release func()) {
	if k, ok := c.(*connection); ok {
		return k.Conn, k.release
	}
	return c, func() {}
}

// withinLimit refuses a connection over the limit.
func withinLimit(ctx context.Context) error {
	if over, _ := ctx.Value(overLimitKey{}).(bool); over {
		return fmt.Errorf("%w: it already serves %d connections; try again", protocol.ErrOverLimit, maxConnections)
	}
	return nil
}
