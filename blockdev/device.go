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
)

// Device is a ublk device that this process serves.
type Device struct {
	id       int
	target   Target
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
	zero   *os.File       // /dev/zero
	made   []devnode.Node // that go with the device; while it starts

	queues []*queue
	work   chan job
	waits  chan job           // of Await: for their own workers, whom the others do not wait for
	cancel context.CancelFunc // ends the workers' context

	panics   atomic.Uint64
	serving  sync.WaitGroup // queues
	workers  sync.WaitGroup
	scanners sync.WaitGroup // processes that read the partition table
	failed   chan struct{}  // closed by the first queue that ends with an error
	done     chan struct{}  // closed when nothing of the device runs any more

	mu       sync.Mutex // guards what follows
	err      error      // the first error of a queue
	stopping bool       // Stop or Quiesce is at work
}

// ID is the N of /dev/ublkbN.
func (d *Device) ID() int { return d.id }

// Path is the block device's node.
func (d *Device) Path() string { return blockPath(d.id) }

// Mode is the copy mode that the device uses.
func (d *Device) Mode() CopyMode { return modeNames[d.transfer] }

// Queues is how many the driver granted.
func (d *Device) Queues() int { return d.nrQueues }

// Depth is how many requests of one queue are under way together.
func (d *Device) Depth() int { return d.depth }

// Stats adds up the queues' counters.
func (d *Device) Stats() Stats {
	var sum Stats
	var answers []<-chan Stats
	for _, q := range d.queues {
		answers = append(answers, q.back.ask(&q.wake))
	}
	for _, c := range answers {
		s := <-c
		sum.add(&s)
	}
	sum.Panics = d.panics.Load()
	return sum
}

// Wait returns when the device is not served any more, with what went wrong: nil after Stop and Quiesce.
func (d *Device) Wait() error {
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Done is closed when the device is not served any more.
func (d *Device) Done() <-chan struct{} { return d.done }

func (d *Device) has(flag uint64) bool { return d.flags&flag != 0 }

// autoReg is the sqe.addr of a fetch: where the driver registers the request's buffer. Where that fails for want
// of memory, and user copy is there, the request comes all the same and is copied.
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
func (d *Device) serveQueues(ctx context.Context, workers int) error {
	if err := d.openFiles(ctx); err != nil {
		return err
	}
	nrQueues := d.nrQueues
	queues := make([]*queue, nrQueues)
	for i := range queues {
		queues[i] = &queue{dev: d, id: uint16(i)}
		if err := queues[i].wake.open(); err != nil {
			for _, q := range queues[:i] {
				err = errors.Join(err, q.wake.close())
			}
			return err
		}
	}
	d.queues = queues
	reserveProcs(nrQueues)
	work, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	d.startWorkers(work, workers)
	ready := make(chan error, nrQueues)
	for _, q := range d.queues {
		d.serving.Go(func() {
			if err := q.run(ready); err != nil {
				d.fail(err)
			}
		})
	}
	go d.reap()
	var errs []error
	for range nrQueues {
		errs = append(errs, <-ready)
	}
	return errors.Join(errs...)
}

// startWorkers starts those for what blocks, and waiters for what may block for long.
func (d *Device) startWorkers(ctx context.Context, workers int) {
	d.work = make(chan job, d.nrQueues*d.depth)
	d.waits = make(chan job, d.nrQueues*d.depth)
	for range workers {
		d.workers.Go(func() { d.worker(ctx, d.work) })
	}
	for range waiters {
		d.workers.Go(func() { d.worker(ctx, d.waits) })
	}
}

// reap waits for the queues and then for the workers, and gives back what they used.
func (d *Device) reap() {
	d.serving.Wait()
	d.cancel()
	close(d.work)
	close(d.waits)
	d.workers.Wait()
	if err := d.closeFiles(); err != nil {
		d.fail(err)
	}
	releaseProcs(d.nrQueues)
	close(d.done)
}

// fail keeps the first error. A device one of whose queues is gone can't be served: the others end too, and the
// driver keeps the requests for a successor.
func (d *Device) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return
	}
	d.err = err
	d.log.Error("device failed", slog.Int("id", d.id), slog.Any("err", err))
	close(d.failed)
	d.endQueues()
}

// endQueues makes the queues end without waiting for the driver, and the workers give up what waits.
func (d *Device) endQueues() {
	d.cancel()
	for _, q := range d.queues {
		q.back.stop(&q.wake)
	}
}

func (d *Device) openFiles(ctx context.Context) error {
	err := d.openChar(ctx)
	if err != nil {
		return fmt.Errorf("open character device: %w", err)
	}
	d.charFD = int(d.char.Fd())
	if d.zero, err = os.Open("/dev/zero"); err != nil {
		return fmt.Errorf("open source of zeroes: %w", err)
	}
	return nil
}

func (d *Device) closeFiles() error {
	var errs []error
	for _, f := range []*os.File{d.zero, d.char} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// retry calls f until it needs no other try, ctx ends or limit is over; then its last error counts.
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

// logError tells of a failed request, at most once a second for each queue.
func (d *Device) logError(q *queue, s *slot, err error) {
	q.muted++
	if now := time.Now(); now.Sub(q.logged) >= time.Second {
		d.log.Warn("request failed", slog.Int("id", d.id), slog.String("op", s.req.Op.String()),
			slog.Int64("offset", s.req.Off), slog.Int("length", s.req.Len), slog.Any("err", err),
			slog.Uint64("failed_since_last_message", q.muted))
		q.logged, q.muted = now, 0
	}
}
