// Package queuetest is a device without a kernel driver: a queue.Driver whose requests come from a
// test and whose lent buffers are ordinary memory. The ring, the files and the workers are real, so
// that what serves a queue is tested on any machine with io_uring.
//
// A fetch is a read of an eventfd, which Do makes complete; a commit wakes Do. Memory that a read
// did not fill holds Poison, as the pages of a kernel's client hold whatever was in them before.
package queuetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"varve/uring"
	"varve/uring/queue"
)

// Poison is each byte of a read's memory before it is served.
const Poison = 0xdb

// Lending is how the device lends a request's bytes; see package queue.
type Lending string

// The ways to lend.
const (
	Registered Lending = "registered"
	Mapped     Lending = "mapped"
	Copied     Lending = "copied"
)

// Lendings are all ways to lend.
var Lendings = []Lending{Registered, Mapped, Copied}

// Options of a Device. Zero means the default, but for NewPart.
type Options struct {
	Lending Lending // Registered
	Depth   int     // 8
	MaxIO   int     // bytes; 256 KiB
	Workers int     // 2
	NewPart func(*queue.Queue) (queue.Part, error)
	Faults  *Faults      // none
	Logger  *slog.Logger // none
}

// Device serves requests of a test.
type Device struct {
	opts    Options
	tags    []tag
	free    chan uint16
	server  *queue.Server
	mu      sync.Mutex // guards gone, and orders what the race detector can't see the kernel order
	gone    bool
	stopped sync.Once
}

// tag is one tag's end in the test.
type tag struct {
	event int    // eventfd that a fetch reads
	count []byte // what it reads
	mem   []byte // the request's bytes
	io    *IO
	done  chan struct{}
}

// IO is one request and its answer.
type IO struct {
	Op       queue.Op
	FUA      bool
	NoUnmap  bool
	Off      int64
	Len      int    // bytes; that of Data, where there is any
	Data     []byte // the bytes of a write; where those of a read go
	Err      error  // the answer
	Appended int64  // the answer of queue.OpZoneAppend
}

// ErrStopped means that the device takes no requests any more.
var ErrStopped = errors.New("the device has been stopped")

// Start serves a device until the test ends.
func Start(t testing.TB, o Options) *Device {
	t.Helper()
	if o.Lending == "" {
		o.Lending = Registered
	}
	if o.Depth == 0 {
		o.Depth = 8
	}
	if o.MaxIO == 0 {
		o.MaxIO = 256 << 10
	}
	if o.Workers == 0 {
		o.Workers = 2
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Device{opts: o, tags: make([]tag, o.Depth), free: make(chan uint16, o.Depth)}
	for i := range d.tags {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		mem, err := unix.Mmap(-1, 0, o.MaxIO, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Munmap(mem) })
		d.tags[i] = tag{event: fd, count: make([]byte, 8), mem: mem, done: make(chan struct{}, 1)}
		d.free <- uint16(i)
	}
	var err error
	d.server, err = queue.Start(queue.Options{
		Queues: 1, Depth: o.Depth, MaxIO: o.MaxIO, Workers: o.Workers, File: d.tags[0].event,
		Driver: d.open, NewPart: o.NewPart, NewRing: o.Faults.NewRing, Logger: o.Logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.TakeBack()
		if err := d.Wait(context.Background()); err != nil {
			t.Errorf("the device ended with %v", err)
		}
	})
	return d
}

func (d *Device) open(_ int, ring uring.Ring) (queue.Driver, error) {
	dr := &driver{d}
	switch d.opts.Lending {
	case Copied:
		return copyingDriver{dr}, nil
	case Mapped:
		return dr, nil
	case Registered:
	}
	mem := make([][]byte, len(d.tags))
	for i := range d.tags {
		mem[i] = d.tags[i].mem
	}
	return copyingDriver{dr}, ring.RegisterBuffers(mem)
}

// Do has a request served and returns its error. It may be called by many goroutines.
func (d *Device) Do(io *IO) error {
	n := <-d.free
	defer func() { d.free <- n }()
	t := &d.tags[n]
	if io.Data != nil {
		io.Len = len(io.Data)
	}
	for i := range t.mem[:min(io.Len, len(t.mem))] {
		t.mem[i] = Poison
	}
	if io.Op.Data() == queue.DataOut {
		copy(t.mem, io.Data)
	}
	d.mu.Lock()
	gone := d.gone
	if !gone {
		t.io = io
	}
	d.mu.Unlock()
	if gone {
		return ErrStopped
	}
	d.ring(t)
	select {
	case <-t.done:
	case <-d.server.Done(): // it may have been answered all the same
		select {
		case <-t.done:
		default:
			return ErrStopped
		}
	}
	if io.Op.Data() == queue.DataIn && io.Err == nil {
		copy(io.Data, t.mem)
	}
	return io.Err
}

// one is what an eventfd is written.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// ring makes the fetch of a tag complete.
func (d *Device) ring(t *tag) {
	if _, err := unix.Write(t.event, one); err != nil {
		panic(fmt.Sprintf("wake the queue: %v", err)) // the descriptor is open as long as the test runs
	}
}

// TakeBack takes back all fetches, as a driver does whose device is being stopped: requests under
// way are answered, others are not served any more.
func (d *Device) TakeBack() {
	d.stopped.Do(func() {
		d.mu.Lock()
		d.gone = true
		d.mu.Unlock()
		for i := range d.tags {
			d.ring(&d.tags[i])
		}
	})
}

// Server is what serves the device.
func (d *Device) Server() *queue.Server { return d.server }

// Wait waits for the end of the queues and returns their error, or ctx's.
func (d *Device) Wait(ctx context.Context) error {
	select {
	case <-d.server.Done():
		return d.server.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// driver is the device's end of its queue.
type driver struct{ *Device }

func (d *driver) Fetch(sqe *uring.SQE, n uint16) {
	t := &d.tags[n]
	sqe.Read(int32(t.event), t.count, 0)
}

func (d *driver) Describe(n uint16, res int32, r *queue.Request) error {
	if res != 8 {
		return fmt.Errorf("%w: read of an eventfd: %d", queue.ErrBroken, res)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &d.tags[n]
	io := t.io
	if io == nil {
		if d.gone {
			return queue.ErrGone
		}
		return fmt.Errorf("%w: no request", queue.ErrBroken)
	}
	r.Op, r.FUA, r.NoUnmap, r.Off, r.Len = io.Op, io.FUA, io.NoUnmap, io.Off, io.Len
	switch d.opts.Lending {
	case Registered:
		r.Registered(uring.Address(t.mem))
	case Mapped:
		r.Mapped(t.mem)
	case Copied:
		r.Copied()
	}
	if r.Len > len(t.mem) && r.HasData() {
		return fmt.Errorf("%w: %d bytes", queue.ErrInvalid, r.Len)
	}
	return nil
}

func (d *driver) Commit(sqe *uring.SQE, n uint16, r *queue.Request, err error) {
	d.Fetch(sqe, n)
	d.mu.Lock()
	t := &d.tags[n]
	t.io.Err, t.io.Appended = err, r.Appended
	t.io = nil
	d.mu.Unlock()
	t.done <- struct{}{}
}

func (d *driver) Close(bool) error { return nil }

// copyingDriver reaches the bytes by copying too.
type copyingDriver struct{ *driver }

func (d copyingDriver) CopyIn(n uint16, p []byte, off int) error {
	copy(p, d.tags[n].mem[off:])
	return nil
}

func (d copyingDriver) CopyOut(n uint16, p []byte, off int) error {
	copy(d.tags[n].mem[off:], p)
	return nil
}
