package zoned

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/zoned/zone"
	"varve/uring/queue"
)

// disk is what the two kinds of zoned disks have in common.
type disk struct {
	zones *zone.Set
	lim   target.Limits
	file  *medium // nil: nothing is kept, and no bytes move
}

// Limits implements target.Target.
func (d *disk) Limits() target.Limits { return d.lim }

// NewPart implements target.Target.
func (d *disk) NewPart(*queue.Queue) (queue.Part, error) {
	p := queue.Handlers{New: func() queue.Handler { return &handler{disk: d} }}
	if d.file != nil {
		p.FDs = []int{d.file.fd}
	}
	return p, nil
}

// limits are those of a disk with zones.
func limits(g *zone.Geometry, blockSize int) target.Limits {
	l := target.Limits{
		Size: g.Size, BlockSize: blockSize, Cache: true,
		Zones: target.Zones{Size: g.ZoneSize, MaxOpen: g.MaxOpen, MaxActive: g.MaxActive},
	}
	l.EnsureDefaults()
	return l
}

// handler serves the requests of a tag.
type handler struct {
	*disk
	off, length int64 // the write that was begun, where there is one; length 0: none
}

// Start implements queue.Handler.
func (h *handler) Start(r *queue.Request) (queue.Action, error) {
	a, err := h.start(r)
	return a, status(err)
}

func (h *handler) start(r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpRead:
		return h.read(r)
	case queue.OpWrite, queue.OpZoneAppend:
		return h.write(r)
	case queue.OpZoneReport:
		p := make([]byte, r.Len)
		h.zones.Report(p, r.Off)
		return queue.Answer, r.Fill(p, 0)
	case queue.OpZoneOpen, queue.OpZoneClose, queue.OpZoneFinish, queue.OpZoneReset, queue.OpZoneResetAll:
		return h.manage(r)
	case queue.OpFlush:
		if h.file == nil || h.lim.ReadOnly {
			return queue.Answer, nil
		}
		return queue.Handoff, nil
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
}

// read adds a secondary for what was written of each zone, and zeroes for the rest.
func (h *handler) read(r *queue.Request) (queue.Action, error) {
	if h.file == nil {
		r.MoveNothing()
		return queue.Answer, nil
	}
	for done := 0; done < r.Len; {
		off := r.Off + int64(done)
		n := min(int64(r.Len-done), h.lim.Zones.Size-off%h.lim.Zones.Size)
		have, err := h.zones.Readable(off, n)
		if err != nil {
			return queue.Answer, err
		}
		if have > 0 {
			r.Secondary(h.file.fd, h.file.data+off, done, int(have))
		}
		if have < n {
			r.Zeroes(done+int(have), int(n-have))
		}
		done += int(n)
	}
	return queue.Submit, nil
}

func (h *handler) write(r *queue.Request) (queue.Action, error) {
	if h.lim.ReadOnly {
		return queue.Answer, unix.EROFS
	}
	off, err := r.Off, error(nil)
	if r.Op == queue.OpZoneAppend {
		off, err = h.zones.Append(r.Off, int64(r.Len))
	} else {
		err = h.zones.Write(r.Off, int64(r.Len))
	}
	if err != nil {
		return queue.Answer, err
	}
	r.Appended = off
	if h.file == nil {
		h.zones.Done(off, int64(r.Len))
		r.MoveNothing()
		return queue.Answer, nil
	}
	h.off, h.length = off, int64(r.Len)
	r.Secondary(h.file.fd, h.file.data+off, 0, r.Len)
	return queue.Submit, nil
}

// manage starts what changes the condition of zones.
func (h *handler) manage(r *queue.Request) (queue.Action, error) {
	if h.lim.ReadOnly {
		return queue.Answer, unix.EROFS
	}
	switch r.Op {
	case queue.OpZoneOpen:
		return queue.Answer, h.zones.Open(r.Off)
	case queue.OpZoneClose:
		return queue.Answer, h.zones.Close(r.Off)
	case queue.OpZoneFinish:
		return queue.Answer, h.zones.Finish(r.Off)
	default:
		if h.file == nil {
			return queue.Answer, h.reset(r)
		}
		return queue.Handoff, nil
	}
}

// Finish implements queue.Handler: it ends the write, and a write with FUA goes on as a flush.
func (h *handler) Finish(r *queue.Request, err error) (queue.Action, error) {
	if h.length != 0 {
		off, n := h.off, h.length
		h.length = 0
		if err != nil {
			h.zones.Abort(off, n)
		} else {
			h.zones.Done(off, n)
		}
	}
	if err == nil && r.FUA && r.Op.Data() == queue.DataOut {
		return queue.Handoff, nil
	}
	return queue.Answer, err
}

// Work implements queue.Handler: what syncs the file.
func (h *handler) Work(_ context.Context, r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpFlush, queue.OpWrite, queue.OpZoneAppend:
		return queue.Answer, h.file.flush()
	case queue.OpZoneReset, queue.OpZoneResetAll:
		return queue.Answer, status(h.reset(r))
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
}

// reset empties the zone at r.Off, or all.
func (h *handler) reset(r *queue.Request) error {
	if r.Op == queue.OpZoneReset {
		return h.resetZones([]int64{r.Off})
	}
	offs := make([]int64, 0, h.lim.Size/h.lim.Zones.Size)
	for off := int64(0); off < h.lim.Size; off += h.lim.Zones.Size {
		if h.zones.MayReset(off) {
			offs = append(offs, off)
		}
	}
	return h.resetZones(offs)
}

func (h *handler) resetZones(offs []int64) (err error) {
	begun := offs[:0:0]
	for _, off := range offs {
		needed, e := h.zones.BeginReset(off)
		if err = e; err != nil {
			break
		}
		if needed {
			begun = append(begun, off)
		}
	}
	if err == nil && len(begun) > 0 && h.file != nil {
		if err = h.file.flush(); err == nil {
			h.file.free(begun, h.lim.Zones.Size)
		}
	}
	for _, off := range begun {
		h.zones.EndReset(off, err != nil)
	}
	return err
}

// Drop implements queue.Handler.
func (h *handler) Drop(*queue.Request) {
	if h.length != 0 {
		h.zones.Abort(h.off, h.length)
		h.length = 0
	}
}

// status chooses the errnos by which the kernel tells the limits of zones from other errors
// (blk_errors in block/blk-core.c, Linux 7.3).
func status(err error) error {
	switch {
	case errors.Is(err, zone.ErrTooManyOpen):
		return &queue.StatusError{Errno: unix.ETOOMANYREFS, Err: err}
	case errors.Is(err, zone.ErrTooManyActive):
		return &queue.StatusError{Errno: unix.EOVERFLOW, Err: err}
	}
	return err
}
