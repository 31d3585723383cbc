package server

import (
	"context"
	"fmt"
	"net"
	"sync"

	"varve/cmd/varve/internal/protocol"
)

// Limits of the socket. Whoever may open it may do worse with the store's files; the limits are for programs that have gone
// wrong.
const (
	// maxConnections are served at once, each with one request at a time.
	maxConnections = 64
	// maxOverLimit is how many more are told that there are too many. What comes beyond waits in the socket's own queue.
	maxOverLimit = 64
)

type overLimitKey struct{} // bool: there are too many connections

// listener limits the connections of a socket. (netutil.LimitListener would do for the waiting in Accept, but its connections
// hide the *net.UnixConn below, which knows the peer and passes files.)
type listener struct {
	net.Listener
	mu                sync.Mutex
	served, overLimit int           // connections; guarded by mu
	freed             chan struct{} // closed when a connection ends; guarded by mu, nil if nobody waits for it

	once sync.Once
	shut chan struct{} // closed by Close
}

// Limit limits the connections of a listener.
func Limit(l net.Listener) net.Listener { return limit(l) }

func limit(l net.Listener) *listener { return &listener{Listener: l, shut: make(chan struct{})} }

// Close ends Accept too.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.shut) })
	return l.Listener.Close()
}

// Accept returns connections, those over the limit too, as long as there is room for them. It has one caller.
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

// full returns a channel that is closed when a connection ends; nil: there is room.
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

// Unwrap returns the connection below one that this package has accepted, and a function that makes room for another
// connection while it stays open.
func Unwrap(c net.Conn) (below net.Conn, release func()) {
	if k, ok := c.(*connection); ok {
		return k.Conn, k.release
	}
	return c, func() {}
}

// withinLimit refuses a connection over the limit.
func withinLimit(ctx context.Context) error {
	if over, _ := ctx.Value(overLimitKey{}).(bool); over {
		return fmt.Errorf("%w: it has %d connections, and serves no more at once; try again", protocol.ErrOverLimit, maxConnections)
	}
	return nil
}
