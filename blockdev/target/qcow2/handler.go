package qcow2

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/qcow2/image"
	"varve/uring/queue"
)

// handler serves one tag.
type handler struct {
	disk    *Disk
	entered bool
	epoch   image.Epoch
	extents []image.Extent
	change  *image.Change // of the write under way
	wait    bool          // Work may wait for another change
	written bool          // the secondaries of the write are in
	err     error         // of them
}

func (h *handler) Start(r *queue.Request) (queue.Action, error) {
	h.wait, h.written, h.err = false, false, nil
	switch r.Op {
	case queue.OpRead:
		h.enter()
		if ready, _ := h.findRead(r, false); !ready { // a worker meets the error again
			return queue.Handoff, nil
		}
		return h.submit(r)
	case queue.OpWrite:
		if h.disk.lim.ReadOnly {
			return queue.Answer, unix.EROFS
		}
		h.enter()
		if !h.findInPlace(r) {
			return queue.Handoff, nil
		}
		return h.submit(r)
	case queue.OpFlush:
		if h.disk.lim.ReadOnly {
			return queue.Answer, nil
		}
		return queue.Handoff, nil
	case queue.OpDiscard, queue.OpWriteZeroes:
		if h.disk.lim.ReadOnly {
			return queue.Answer, unix.EROFS
		}
		return queue.Await, nil
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
}

func (h *handler) enter() {
	h.epoch, h.entered = h.disk.top.Enter(), true
}

func (h *handler) leave() {
	if h.entered {
		h.disk.top.Leave(h.epoch)
		h.entered = false
	}
}

// findRead finds the extents of a read. ready: secondaries can move all of them.
func (h *handler) findRead(r *queue.Request, load bool) (ready bool, err error) {
	h.extents, ready = h.extents[:0], true
	for off, end := r.Off, r.Off+int64(r.Len); off < end; {
		e, err := h.disk.top.Lookup(off, end-off, load)
		if err != nil {
			return false, err
		}
		ready = ready && e.Kind != image.Packed
		off += e.Len
		h.add(e)
	}
	return ready, nil
}

// add adds an extent, to the last one if they are in a row.
func (h *handler) add(e image.Extent) {
	if k := len(h.extents) - 1; k >= 0 && e.Kind != image.Packed {
		last := &h.extents[k]
		if last.Kind == e.Kind && (e.Kind == image.Zeroes || last.File == e.File && last.Off+last.Len == e.Off) {
			last.Len += e.Len
			return
		}
	}
	h.extents = append(h.extents, e)
}

// findInPlace finds the extents of a write, if all of them may be written in place.
func (h *handler) findInPlace(r *queue.Request) bool {
	h.extents = h.extents[:0]
	for off, end := r.Off, r.Off+int64(r.Len); off < end; {
		e, ok := h.disk.top.InPlace(off, end-off)
		if !ok {
			return false
		}
		off += e.Len
		h.add(e)
	}
	return true
}

// submit adds the extents to the request, those excepted that are filled in.
func (h *handler) submit(r *queue.Request) (queue.Action, error) {
	at := 0
	for i := range h.extents {
		e := &h.extents[i]
		switch e.Kind {
		case image.Stored:
			r.Secondary(e.File.FD(), e.Off, at, int(e.Len))
		case image.Zeroes:
			r.Zeroes(at, int(e.Len))
		case image.Packed: // filled in by read
		}
		at += int(e.Len)
	}
	if r.FUA && h.change == nil {
		r.SetFlags(unix.RWF_DSYNC)
	}
	return queue.Submit, nil
}

// Finish commits a write that got new places: by a worker, since that may block.
func (h *handler) Finish(r *queue.Request, err error) (queue.Action, error) {
	if h.change != nil || err == nil && r.FUA && r.Op == queue.OpWrite && !h.disk.top.Durable() {
		h.written, h.err = true, err
		return queue.Handoff, nil
	}
	h.leave()
	return queue.Answer, err
}

func (h *handler) Work(ctx context.Context, r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpRead:
		return h.read(r)
	case queue.OpWrite:
		if h.written {
			defer h.leave()
			return queue.Answer, h.commit(r)
		}
		return h.prepare(ctx, r)
	case queue.OpFlush:
		return queue.Answer, h.disk.top.Sync()
	case queue.OpDiscard, queue.OpWriteZeroes:
		err := h.disk.top.Zero(ctx, r.Off, int64(r.Len), r.Op == queue.OpWriteZeroes && r.NoUnmap)
		if err == nil && r.FUA {
			err = h.disk.top.Sync()
		}
		return queue.Answer, err
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
}

// read loads what says where the bytes are, and decompresses.
func (h *handler) read(r *queue.Request) (queue.Action, error) {
	if _, err := h.findRead(r, true); err != nil {
		h.leave()
		return queue.Answer, err
	}
	at := 0
	for i := range h.extents {
		e := &h.extents[i]
		if e.Kind == image.Packed {
			p := backing.Memory(int(e.Len))
			err := e.Read(p)
			if err == nil {
				err = r.Fill(p, at)
			}
			if err != nil {
				h.leave()
				return queue.Answer, err
			}
		}
		at += int(e.Len)
	}
	return h.submit(r)
}

// prepare gives the bytes of a write a place.
func (h *handler) prepare(ctx context.Context, r *queue.Request) (queue.Action, error) {
	for {
		c, extents, busy, err := h.disk.top.Prepare(r.Off, int64(r.Len))
		switch {
		case err != nil:
			h.leave()
			return queue.Answer, err
		case busy == nil:
			h.change, h.extents = c, append(h.extents[:0], extents...)
			return h.submit(r)
		case !h.wait: // commits need the workers that do not wait
			h.wait = true
			return queue.Await, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			h.leave()
			return queue.Answer, context.Cause(ctx)
		}
	}
}

// commit ends a write whose bytes are where they belong.
func (h *handler) commit(r *queue.Request) error {
	c := h.change
	h.change = nil
	if h.err != nil {
		if c != nil {
			c.Abort()
		}
		return fmt.Errorf("%s: %w", h.disk.files[0].Path(), h.err)
	}
	if c != nil {
		if err := c.Commit(); err != nil {
			return err
		}
	}
	if r.FUA {
		return h.disk.top.Sync()
	}
	return nil
}

func (h *handler) Drop(*queue.Request) {
	if h.change != nil {
		h.change.Abort()
		h.change = nil
	}
	h.leave()
}
