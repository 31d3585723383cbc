package lincheck

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// Disk is the disk under test. Offsets and lengths are multiples of CellSize.
type Disk interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Zero(off, length int64) error
	Flush() error
}

// Death says what becomes of a client's requests that are in flight when the server is killed.
type Death int

// The ways of a request.
const (
	// Aborted: the client gets an error, and the request may or may not have taken effect before
	// the death. FUSE behaves so: an answer comes from a living server.
	Aborted Death = iota
	// Reissued: the client waits, and the next server gets the request again. If the first server
	// has carried it out too, it takes effect twice, and overwrites what other requests wrote in
	// between. ublk behaves so.
	Reissued
	// Cut: nothing that is answered after the kill has begun counts as answered: the server is a
	// part of this process, which lives on, but its files are cut off. Outcomes are as of Aborted.
	Cut
)

// Errors that a disk's error may wrap if more is known about the request than that its outcome is
// unknown.
var (
	// ErrNotSent: the request reached no server.
	ErrNotSent = errors.New("request not sent")
	// ErrEnded: the request may have taken effect, or a part of it, but will not from now on: the
	// server has ended it.
	ErrEnded = errors.New("request ended")
)

// History is what all clients did. Safe for concurrent use.
type History struct {
	start time.Time

	mu    sync.Mutex
	ops   []op
	kills []kill
	seqs  []uint64 // the last write of each client
	bad   error    // what was read and can't be
}

type op struct {
	client  int
	death   Death
	write   bool
	off     int64
	length  int64
	value   Value   // of a write
	read    []Value // of a read, one for each cell
	call    int64
	ret     int64
	unknown bool // it got an error: a write may have taken effect
	ended   bool // but it will not from now on
}

type kill struct{ begin, end int64 }

// NewHistory returns a history that begins with a disk of zeroes.
func NewHistory() *History { return &History{start: time.Now()} }

// Now returns the time of the history in nanoseconds.
func (h *History) Now() int64 { return int64(time.Since(h.start)) }

// Kill records that f kills the server. When f returns, the server is dead and can do nothing more;
// the next one is started after that.
func (h *History) Kill(f func()) {
	h.mu.Lock()
	h.kills = append(h.kills, kill{h.Now(), math.MaxInt64})
	i := len(h.kills) - 1
	h.mu.Unlock()
	f()
	h.mu.Lock()
	h.kills[i].end = h.Now()
	h.mu.Unlock()
}

// Client returns a new client.
func (h *History) Client(d Disk, death Death) *Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seqs = append(h.seqs, 0)
	return &Client{h: h, disk: d, death: death, id: len(h.seqs) - 1}
}

// Saw adds a read that took effect between two times of the history and returned p.
func (h *History) Saw(p []byte, off, call, ret int64) error {
	return h.add(op{client: -1, off: off, length: int64(len(p)), call: call, ret: ret}, p)
}

// add notes a request that has ended. p is what a read has returned.
func (h *History) add(o op, p []byte) error {
	if !o.write && !o.unknown {
		values, err := decode(p, o.off)
		if err != nil {
			err = fmt.Errorf("client %d read: %w", o.client, err)
			h.mu.Lock()
			defer h.mu.Unlock()
			// What a server that is being killed reads does not reach anybody.
			if o.death == Cut && h.overtaken(&o) {
				return nil
			}
			if h.bad == nil {
				h.bad = err
			}
			return err
		}
		o.read = values
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	return nil
}

// overtaken reports whether a kill began before the request was answered. mu is held.
func (h *History) overtaken(o *op) bool {
	for _, k := range h.kills {
		if o.call < k.end && o.ret > k.begin {
			return true
		}
	}
	return false
}

// Client sends one request at a time; it is not safe for concurrent use.
type Client struct {
	h     *History
	disk  Disk
	death Death
	id    int
	buf   []byte
}

// Buffer makes the client use b for its requests, so that they can be aligned for direct I/O.
func (c *Client) Buffer(b []byte) { c.buf = b }

func (c *Client) buffer(n int64) []byte {
	if int64(len(c.buf)) < n {
		c.buf = make([]byte, n)
	}
	return c.buf[:n]
}

// Read reads. It returns the disk's error, or an error if the bytes are wrong.
func (c *Client) Read(off, length int64) error {
	p := c.buffer(length)
	o := op{client: c.id, death: c.death, off: off, length: length, call: c.h.Now()}
	_, err := c.disk.ReadAt(p, off)
	if o.ret = c.h.Now(); err != nil {
		return err
	}
	return c.h.add(o, p)
}

// Write writes a value that was never written before.
func (c *Client) Write(off, length int64) error {
	c.h.mu.Lock()
	c.h.seqs[c.id]++
	v := value(c.id, c.h.seqs[c.id])
	c.h.mu.Unlock()
	p := c.buffer(length)
	fill(p, off, v)
	return c.change(off, length, v, func() error { _, err := c.disk.WriteAt(p, off); return err })
}

// Zero zeroes a range.
func (c *Client) Zero(off, length int64) error {
	return c.change(off, length, 0, func() error { return c.disk.Zero(off, length) })
}

// Flush changes nothing that the death of a server would not change.
func (c *Client) Flush() error { return c.disk.Flush() }

func (c *Client) change(off, length int64, v Value, f func() error) error {
	o := op{client: c.id, death: c.death, write: true, off: off, length: length, value: v, call: c.h.Now()}
	err := f()
	if errors.Is(err, ErrNotSent) {
		return err
	}
	o.ret, o.unknown, o.ended = c.h.Now(), err != nil, errors.Is(err, ErrEnded)
	if aerr := c.h.add(o, nil); err == nil {
		err = aerr
	}
	return err
}
