package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"varve/cmd/varve/internal/protocol"
)

// Limits of the socket, beside protocol.MaxBody. Whoever may open it may do worse with the store's files; the limits
// are for programs that have gone wrong.
const (
	// maxConnections are served at once, each with one request at a time.
	maxConnections = 64
	// maxLate is how many more are told that there are too many. What comes beyond waits in the socket's own queue.
	maxLate = 64
	// maxWaits is how many requests may wait for a snapshot to settle: the only ones that no time limit ends.
	maxWaits = 32
	// maxHeader bounds the header of a request in bytes.
	maxHeader = 16 << 10
	// readTimeout bounds the reading of a request with its body.
	readTimeout = 30 * time.Second
	// answerTimeout bounds the time that a client takes to read its answer.
	answerTimeout = 30 * time.Second
)

type (
	peerKey struct{} // *unix.Ucred of the client
	lateKey struct{} // bool: there are too many connections
)

// door counts the connections of a listener.
type door struct {
	net.Listener
	mu           sync.Mutex
	served, late int           // guarded by mu
	left         chan struct{} // closed when somebody leaves; guarded by mu, nil if nobody waits for it

	once sync.Once
	shut chan struct{} // closed by Close
}

func newDoor(l net.Listener) *door { return &door{Listener: l, shut: make(chan struct{})} }

// Close ends Accept too.
func (d *door) Close() error {
	d.once.Do(func() { close(d.shut) })
	return d.Listener.Close()
}

// Accept gives connections, the late ones too, as long as there is room for them. It has one caller.
func (d *door) Accept() (net.Conn, error) {
	for left := d.full(); left != nil; left = d.full() {
		select {
		case <-left:
		case <-d.shut:
			return nil, net.ErrClosed
		}
	}
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return d.enter(c), nil
}

// full gives a channel that is closed when somebody leaves; nil: there is room.
func (d *door) full() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.served < maxConnections || d.late < maxLate {
		return nil
	}
	if d.left == nil {
		d.left = make(chan struct{})
	}
	return d.left
}

func (d *door) enter(c net.Conn) *visitor {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.served < maxConnections {
		d.served++
		return &visitor{Conn: c, door: d}
	}
	d.late++
	return &visitor{Conn: c, door: d, late: true}
}

func (d *door) leave(v *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v.late {
		d.late--
	} else {
		d.served--
	}
	if d.left != nil {
		close(d.left)
		d.left = nil
	}
}

// visitor is a connection that is counted until it is closed.
type visitor struct {
	net.Conn
	door *door
	late bool
	once sync.Once
}

// Close closes the connection and makes room for another.
func (v *visitor) Close() error { return v.leave().Close() }

// leave makes room for another, and gives the connection itself.
func (v *visitor) leave() net.Conn {
	v.once.Do(func() { v.door.leave(v) })
	return v.Conn
}

// mayEnter refuses a late one.
func mayEnter(ctx context.Context) error {
	if late, _ := ctx.Value(lateKey{}).(bool); late {
		return fmt.Errorf("%w: it has %d connections, and serves no more at once; try again", protocol.ErrCrowded, maxConnections)
	}
	return nil
}

// wait takes one of the places of those who wait for a snapshot.
func (d *Daemon) wait() (leave func(), err error) {
	select {
	case d.waits <- struct{}{}:
		return func() { <-d.waits }, nil
	default:
		return nil, fmt.Errorf("%w: %d requests wait for snapshots to settle, and no more may; try again, or without waiting",
			protocol.ErrCrowded, maxWaits)
	}
}

// timedWriter gives up a client that does not read its answer. The time begins with the answer, not with the request,
// which takes what it takes.
type timedWriter struct {
	http.ResponseWriter
	limit time.Duration
}

// WriteHeader begins an answer.
func (t *timedWriter) WriteHeader(status int) {
	_ = http.NewResponseController(t.ResponseWriter).SetWriteDeadline(time.Now().Add(t.limit)) // every connection has one
	t.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (t *timedWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }
