// Package volume is a volume of the object store as a disk.
//
// A read is planned by the volume: pieces of the store's files, and holes. A write goes to the end
// of a segment that the volume reserves for it, and counts once it is committed:
//
//	read   Plan ----> secondaries, zeroes --> Release
//	write  Reserve -> secondary ------------> Commit, or Abort after an error
//
// A write that finds the disk full, since others have taken the room meanwhile, waits like one that
// finds none to reserve, and is tried once more.
//
// Plan, Reserve, TryZero and TryFlush do not block: where they would have to, they return an error
// that says so (ErrNotLoaded, ErrBusy), and a worker waits instead of the queue. So a flush goes to
// a worker, unless nothing is to be made durable or the store is in memory.
package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/objstore"
	"varve/uring/queue"
)

// Volume is a disk to read and write, as *objstore.Volume is one.
type Volume interface {
	Size() int64
	BlockSize() int
	Plan(off int64, length int, p *objstore.Plan) error
	Load(ctx context.Context, off int64, length int) error
	Release(p *objstore.Plan)
	Reserve(off int64, length int, w *objstore.Write) error
	Commit(w *objstore.Write) error
	Abort(w *objstore.Write)
	TryZero(off, length int64) error
	Wait(ctx context.Context, off, length int64, hole bool) error
	Flush() error
	TryFlush() error
}

var _ Volume = (*objstore.Volume)(nil)

// New returns the target of a volume. The caller closes the volume after the device has
// stopped.
func New(v Volume) target.Target {
	return &disk{volume: v, lim: target.Limits{
		Size: v.Size(), BlockSize: v.BlockSize(), Discard: true, Zeroes: true, Cache: true, DMAAlign: target.SectorSize,
	}}
}

type disk struct {
	volume Volume
	lim    target.Limits
}

func (d *disk) Limits() target.Limits { return d.lim }

func (d *disk) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler { return &handler{volume: d.volume} }}, nil
}

// handler turns plans into secondaries. A read holds its plan, and with it the segments, until the
// last secondary is in; a write holds the space that was reserved for it.
type handler struct {
	volume   Volume
	plan     objstore.Plan
	write    objstore.Write
	planned  bool
	reserved bool
	again    bool // the write has met a full disk, and is tried once more
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

func (h *handler) Start(r *queue.Request) (queue.Action, error) {
	h.need = needNothing
	switch r.Op {
	case queue.OpRead:
		return h.startRead(r)
	case queue.OpWrite:
		if err := h.volume.Reserve(r.Off, r.Len, &h.write); err != nil {
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
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
}

func (h *handler) startRead(r *queue.Request) (queue.Action, error) {
	if err := h.volume.Plan(r.Off, r.Len, &h.plan); err != nil {
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

// waitFor hands the request to a worker when err says no more than that waiting will help.
func (h *handler) waitFor(n need, err error) (queue.Action, error) {
	if !errors.Is(err, objstore.ErrNotLoaded) && !errors.Is(err, objstore.ErrBusy) {
		h.again = false
		return queue.Answer, status(err)
	}
	h.need = n
	if n == needRoom {
		return queue.Await, nil // a full tail settles for many seconds; reads and flushes do not wait for that
	}
	return queue.Handoff, nil
}

// durable answers a request whose effect is committed.
func (h *handler) durable(r *queue.Request) (queue.Action, error) {
	if !r.FUA {
		return queue.Answer, nil
	}
	return h.flush()
}

// flush makes durable what is committed: at once where that waits for nothing, else on a worker.
func (h *handler) flush() (queue.Action, error) {
	if err := h.volume.TryFlush(); err != nil {
		return h.waitFor(needFlush, err)
	}
	return queue.Answer, nil
}

func (h *handler) Finish(r *queue.Request, err error) (queue.Action, error) {
	if h.planned {
		h.planned = false
		h.volume.Release(&h.plan)
		return queue.Answer, err
	}
	again := h.again
	h.reserved, h.again = false, false
	if err != nil {
		h.volume.Abort(&h.write)
		if !again && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
			// Others have taken the room that was there when it was reserved.
			h.again, h.need = true, needRoom
			return queue.Await, nil
		}
		return queue.Answer, err
	}
	if err := h.volume.Commit(&h.write); err != nil {
		return queue.Answer, status(fmt.Errorf("commit write: %w", err))
	}
	return h.durable(r)
}

func (h *handler) Work(ctx context.Context, r *queue.Request) (queue.Action, error) {
	switch h.need {
	case needNodes:
		return queue.Again, status(h.volume.Load(ctx, r.Off, r.Len))
	case needRoom:
		err := h.volume.Wait(ctx, r.Off, int64(r.Len), r.Op != queue.OpWrite)
		h.again = h.again && err == nil
		return queue.Again, status(err)
	case needFlush:
		return queue.Answer, status(h.volume.Flush())
	case needCheck:
		return queue.Answer, h.readChecked(r)
	case needNothing:
	}
	return queue.Answer, fmt.Errorf("%w: nothing to wait for", queue.ErrInvalid)
}

// checkSize in bytes is the largest request of a device with default options.
const checkSize = 1 << 20

// checkBuffers hold requests whose bytes are hashed: one for each worker that does so.
var checkBuffers = sync.Pool{New: func() any { b := objstore.NewBuffer(checkSize); return &b }}

// readChecked reads what is planned into a buffer, where it is hashed, and fills the request from
// there. A request with a damaged chunk fails whole.
func (h *handler) readChecked(r *queue.Request) error {
	buf := checkBuffers.Get().(*[]byte)
	defer checkBuffers.Put(buf)
	if len(*buf) < r.Len {
		*buf = objstore.NewBuffer(r.Len)
	}
	err := h.plan.Read((*buf)[:r.Len])
	h.planned = false
	h.volume.Release(&h.plan)
	if err != nil {
		return status(err)
	}
	return r.Fill((*buf)[:r.Len], 0)
}

func (h *handler) Drop(*queue.Request) {
	planned, reserved := h.planned, h.reserved
	h.planned, h.reserved, h.again = false, false, false
	if planned {
		h.volume.Release(&h.plan)
	}
	if reserved {
		h.volume.Abort(&h.write)
	}
}

// status wraps the store's errors with the errno that answers the request.
func status(err error) error {
	var errno unix.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, objstore.ErrNoSpace):
		errno = unix.ENOSPC
	case errors.Is(err, objstore.ErrCorrupt):
		errno = unix.EIO
	case errors.Is(err, objstore.ErrReadOnly):
		errno = unix.EROFS
	default:
		return err
	}
	return &queue.StatusError{Errno: errno, Err: err}
}
