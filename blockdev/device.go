package blockdev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"varve/blockdev/devnode"
	"varve/blockdev/target"
	"varve/uring/queue"
)

// Device is a ublk device that this process serves.
type Device struct {
	id       int
	target   target.Target
	flags    uint64 // what the driver granted
	transfer transferMode
	maxIO    int // bytes
	depth    int
	nrQueues int
	owner    uint64
	log      *slog.Logger
	size     atomic.Int64 // bytes

	ctl    *control
	char   *os.File       // /dev/ublkcN
	charFD int            // of char, for the paths that can't afford to ask
	made   []devnode.Node // nodes that were made for the device, and are removed with it; while it starts

	server   *queue.Server  // nil until the queues have fetched
	scanners sync.WaitGroup // processes that read the partition table
	done     chan struct{}  // closed when nothing of the device runs any more

	mu       sync.Mutex // guards what follows
	closeErr error      // of the character device
	stopping bool       // Stop or Quiesce is running
}

// ID is the N of /dev/ublkbN.
func (d *Device) ID() int { return d.id }

// Path returns the path of the block device's node.
func (d *Device) Path() string { return blockPath(d.id) }

// Mode returns the copy mode that the device uses.
func (d *Device) Mode() CopyMode { return modeNames[d.transfer] }

// Queues returns how many queues the driver has granted.
func (d *Device) Queues() int { return d.nrQueues }

// Depth returns how many requests of one queue may be under way together.
func (d *Device) Depth() int { return d.depth }

// Stats returns the sums of the queues' counters.
func (d *Device) Stats() queue.Stats { return d.server.Stats() }

// Wait returns when the device is not served any more, with what went wrong: nil after Stop and
// Quiesce.
func (d *Device) Wait() error {
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.server.Err(), d.closeErr)
}

// Done is closed when the device is not served any more.
func (d *Device) Done() <-chan struct{} { return d.done }

func (d *Device) has(flag uint64) bool { return d.flags&flag != 0 }

// autoReg is the sqe.addr of a fetch: where the driver registers the request's buffer. If
// registering fails for lack of memory, and the device has user copy, the driver delivers the
// request nevertheless, and its bytes are copied.
func (d *Device) autoReg(tag uint16) uint64 {
	if !d.has(_UBLK_F_AUTO_BUF_REG) {
		return 0
	}
	r := ublk_auto_buf_reg{index: tag}
	if d.has(_UBLK_F_USER_COPY) {
		r.flags = _UBLK_AUTO_BUF_REG_FALLBACK
	}
	return r.sqeAddr()
}

// serveQueues opens the character device and starts all queues. They have fetched when it returns.
func (d *Device) serveQueues(ctx context.Context, opts *Options) error {
	if err := d.openChar(ctx); err != nil {
		return fmt.Errorf("open character device: %w", err)
	}
	d.charFD = int(d.char.Fd())
	o := queue.Options{
		Queues: d.nrQueues, Depth: d.depth, MaxIO: d.maxIO, Workers: opts.Workers, File: d.charFD,
		Driver: d.openQueue, NewPart: d.target.NewPart, NewRing: opts.newRing,
		Logger: d.log.With(slog.Int("id", d.id)),
	}
	server, err := queue.Start(o)
	if err != nil {
		return err
	}
	d.server = server
	go d.reap()
	return nil
}

// reap waits for the queues and closes what they used.
func (d *Device) reap() {
	<-d.server.Done()
	err := d.char.Close()
	d.mu.Lock()
	d.closeErr = err
	d.mu.Unlock()
	close(d.done)
}

// retry calls f until f needs no other try, ctx ends, or limit is over, and returns f's last error.
func retry(ctx context.Context, limit time.Duration, f func() (again bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		again, err := f()
		if err == nil || !again {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrTimeout, err)
		case <-time.After(pause):
		}
	}
}
