package blockdev

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
	"varve/uring/queue"
)

// Image is a disk to read, as *objstore.View is one.
type Image interface {
	Size() int64
	Plan(off int64, length int, p *objstore.Plan) error
	Load(ctx context.Context, off int64, length int) error
	Release(p *objstore.Plan)
}

// Volume is a disk to read and write, as *objstore.Volume is one.
type Volume interface {
	Image
	BlockSize() int
	Reserve(off int64, length int, w *objstore.Write) error
	Commit(w *objstore.Write) error
	Abort(w *objstore.Write)
	TryZero(off, length int64) error
	Wait(ctx context.Context) error
	Flush() error
}

var (
	_ Volume = (*objstore.Volume)(nil)
	_ Image  = (*objstore.View)(nil)
)

// NewVolume is the target of a volume. The volume stays the caller's, who closes it after the device has stopped.
func NewVolume(v Volume) Target {
	return &volumeTarget{image: v, volume: v, lim: Limits{
		Size: v.Size(), BlockSize: v.BlockSize(), Discard: true, Cache: true, DMAAlign: sectorSize,
	}}
}

// NewImage is the read-only target of a snapshot or another image. blockSize is 512 or 4096, or 0 for 512.
func NewImage(im Image, blockSize int) Target {
	return &volumeTarget{image: im, lim: Limits{Size: im.Size(), BlockSize: blockSize, ReadOnly: true, DMAAlign: sectorSize}}
}

type volumeTarget struct {
	image  Image
	volume Volume // nil: read-only
	lim    Limits
	flush  flushCost
}

// flushCost is how long flushes take. A flush may block, and belongs on a worker; but the way there and back
// costs more than the flush itself where the store's file system is fast, so that there it is done at once.
type flushCost struct {
	nanos atomic.Int64 // of the last flushes, the latest counting most; 0: not known yet
}

// quickFlush is what a queue may be kept from its other requests.
const quickFlush = 100 * time.Microsecond

func (c *flushCost) quick() bool {
	n := c.nanos.Load()
	return n > 0 && n < int64(quickFlush)
}

func (c *flushCost) took(d time.Duration) {
	old := c.nanos.Load()
	c.nanos.Store(max((3*old+int64(d))/4, 1))
	if old == 0 || d > quickFlush {
		c.nanos.Store(int64(d)) // one slow flush is enough to leave the queue alone
	}
}

func (t *volumeTarget) Limits() Limits { return t.lim }

func (t *volumeTarget) NewHandler() queue.Handler {
	return &volumeHandler{image: t.image, volume: t.volume, cost: &t.flush}
}

// volumeHandler turns plans into secondaries. A read holds its plan, and with it the segments, until the last
// secondary is in; a write holds the place that was reserved for it.
type volumeHandler struct {
	image    Image
	volume   Volume
	cost     *flushCost
	plan     objstore.Plan
	write    objstore.Write
	planned  bool
	reserved bool
	need     need
}

// need is why a worker has the request.
type need uint8

const (
	needNothing need = iota
	needNodes        // the plan needs tree nodes that are not in memory
	needRoom         // the tail is full, or there is no segment to write to yet
	needFlush        // everything committed has to be made durable
	needCheck        // what is read has to be hashed: the plan is ready
)

func (h *volumeHandler) Start(r *queue.Request) (queue.Action, error) {
	h.need = needNothing
	if r.Op == queue.OpRead {
		return h.startRead(r)
	}
	if h.volume == nil {
		return queue.Answer, objstore.ErrReadOnly
	}
	switch r.Op {
	case queue.OpWrite:
		err := h.volume.Reserve(r.Off, r.Len, &h.write)
		if err != nil {
			return h.waitFor(needRoom, err)
		}
		h.reserved = true
		r.Secondary(h.write.FD, h.write.FileOff, 0, r.Len)
		return queue.Submit, nil
	case queue.OpFlush:
		return h.flush()
	case queue.OpDiscard, queue.OpWriteZeroes:
		if err := h.volume.TryZero(r.Off, int64(r.Len)); err != nil {
			return h.waitFor(needRoom, err)
		}
		return h.durable(r)
	case queue.OpRead:
	}
	return queue.Answer, unix.EOPNOTSUPP
}

func (h *volumeHandler) startRead(r *queue.Request) (queue.Action, error) {
	if err := h.image.Plan(r.Off, r.Len, &h.plan); err != nil {
		return h.waitFor(needNodes, err)
	}
	h.planned = true
	if h.plan.Checked() {
		h.need = needCheck
		return queue.Handoff, nil
	}
	for i := range h.plan.Pieces {
		if p := &h.plan.Pieces[i]; p.Hole {
			r.Zeroes(p.BufOff, p.Len)
		} else {
			r.Secondary(p.FD, p.FileOff, p.BufOff, p.Len)
		}
	}
	return queue.Submit, nil
}

// waitFor hands the request off when err says no more than that waiting will help.
func (h *volumeHandler) waitFor(n need, err error) (queue.Action, error) {
	if err != nil && !errors.Is(err, objstore.ErrNotLoaded) && !errors.Is(err, objstore.ErrBusy) {
		return queue.Answer, err
	}
	h.need = n
	if n == needRoom {
		return queue.Await, nil // a tail that is full settles for many seconds; reads and flushes do not wait for that
	}
	return queue.Handoff, nil
}

// durable answers a request whose effect is committed.
func (h *volumeHandler) durable(r *queue.Request) (queue.Action, error) {
	if !r.FUA {
		return queue.Answer, nil
	}
	return h.flush()
}

// flush makes durable what is committed: at once where that is quick, else on a worker.
func (h *volumeHandler) flush() (queue.Action, error) {
	if !h.cost.quick() {
		return h.waitFor(needFlush, nil)
	}
	return queue.Answer, h.timedFlush()
}

func (h *volumeHandler) timedFlush() error {
	start := time.Now()
	err := h.volume.Flush()
	h.cost.took(time.Since(start))
	return err
}

func (h *volumeHandler) Finish(r *queue.Request, err error) (queue.Action, error) {
	if h.planned {
		h.planned = false
		h.image.Release(&h.plan)
		return queue.Answer, err
	}
	h.reserved = false
	if err != nil {
		h.volume.Abort(&h.write)
		return queue.Answer, err
	}
	if err := h.volume.Commit(&h.write); err != nil {
		return queue.Answer, fmt.Errorf("commit write: %w", err)
	}
	return h.durable(r)
}

func (h *volumeHandler) Work(ctx context.Context, r *queue.Request) (queue.Action, error) {
	switch h.need {
	case needNodes:
		return queue.Again, h.image.Load(ctx, r.Off, r.Len)
	case needRoom:
		return queue.Again, h.volume.Wait(ctx)
	case needFlush:
		return queue.Answer, h.timedFlush()
	case needCheck:
		return queue.Answer, h.readChecked(r)
	case needNothing:
	}
	return queue.Answer, fmt.Errorf("%w: nothing to wait for", ErrInvalid)
}

// checkBuffers hold requests whose bytes are looked at: one for each worker that does.
var checkBuffers = sync.Pool{New: func() any { b := objstore.NewBuffer(DefaultMaxIO); return &b }}

// readChecked reads what is planned through a buffer, where it is hashed, and gives it to the request by user copy. A
// request with a damaged chunk fails whole.
func (h *volumeHandler) readChecked(r *queue.Request) error {
	buf := checkBuffers.Get().(*[]byte)
	defer checkBuffers.Put(buf)
	if len(*buf) < r.Len {
		*buf = objstore.NewBuffer(r.Len)
	}
	err := h.plan.Read((*buf)[:r.Len])
	h.planned = false
	h.image.Release(&h.plan)
	if err != nil {
		return err
	}
	return r.Fill((*buf)[:r.Len])
}

func (h *volumeHandler) Drop(*queue.Request) {
	planned, reserved := h.planned, h.reserved
	h.planned, h.reserved = false, false
	if planned {
		h.image.Release(&h.plan)
	}
	if reserved {
		h.volume.Abort(&h.write)
	}
}
