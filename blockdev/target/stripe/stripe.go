// Package stripe is a disk that is striped over several files or block devices, its legs.
//
// The disk's bytes are dealt out in chunks, one leg after the other. A request becomes one secondary
// for each piece of a chunk, all in flight together:
//
//	disk    | 0 | 1 | 2 | 3 | 4 | 5 | 6 | ...          chunk c is on leg c mod n,
//	                                                   at DataOffset + c/n chunks
//	leg 0   superblock | 0 | 3 | 6 | ...
//	leg 1   superblock | 1 | 4 | ...
//	leg 2   superblock | 2 | 5 | ...
//	        0          DataOffset
//
// A flush is one sync a leg. A discard, or a write of zeroes, is one fallocate a leg: a part of the
// disk is one range on each leg, since all chunks of a leg that lie in it follow each other there.
//
// Each leg begins with a superblock (superblock.go draws it), by which Open finds out that the legs
// are those of one set, that none is missing, and in which order they go. A stripe has no redundancy:
// a request that touches a leg which fails, fails.
package stripe

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/backing"
	"varve/uring"
	"varve/uring/queue"
)

// Stripe is a disk over its legs.
type Stripe struct {
	set  set
	legs []*backing.File // in order
	fds  []int
	lim  target.Limits
	mem  bool // no leg's sync waits for anything
}

// newStripe puts the legs of a set, which are in order, together.
func newStripe(s set, legs []*backing.File, readOnly bool) *Stripe {
	st := &Stripe{set: s, legs: legs, mem: true, lim: target.Limits{
		Size: s.size(), BlockSize: s.block, ReadOnly: readOnly, Discard: !readOnly, Zeroes: !readOnly, Cache: true, DMAAlign: 4,
	}}
	for _, l := range legs {
		st.fds = append(st.fds, l.FD())
		st.mem = st.mem && l.InMemory()
		st.lim.Discard = st.lim.Discard && l.Discards()
		st.lim.DMAAlign = max(st.lim.DMAAlign, l.MemAlign())
	}
	return st
}

// Close closes the legs.
func (s *Stripe) Close() error { return closeAll(s.legs) }

// Limits implements target.Target.
func (s *Stripe) Limits() target.Limits { return s.lim }

// ChunkSize is how many bytes in a row are on one leg.
func (s *Stripe) ChunkSize() int64 { return s.set.chunk }

// Paths are the paths of the legs, in order.
func (s *Stripe) Paths() []string {
	paths := make([]string, len(s.legs))
	for i, l := range s.legs {
		paths[i] = l.Path()
	}
	return paths
}

// Direct reports whether all legs go past the page cache.
func (s *Stripe) Direct() bool {
	for _, l := range s.legs {
		if !l.Direct() {
			return false
		}
	}
	return true
}

// NewPart implements target.Target.
func (s *Stripe) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler { return handler{s} }, FDs: s.fds}, nil
}

type handler struct{ *Stripe }

func (h handler) Start(r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpRead, queue.OpWrite:
		for done := 0; done < r.Len; {
			leg, at, n := h.set.piece(r.Off+int64(done), int64(r.Len-done))
			r.Secondary(h.fds[leg], at, done, int(n))
			done += int(n)
		}
		if r.FUA {
			r.SetFlags(unix.RWF_DSYNC)
		}
	case queue.OpFlush:
		if h.mem {
			return queue.Answer, nil
		}
		for _, fd := range h.fds {
			r.Add(sync(fd))
		}
	case queue.OpDiscard:
		h.allocate(r, backing.Punch)
	case queue.OpWriteZeroes:
		if r.NoUnmap {
			h.allocate(r, backing.ZeroRange)
		} else {
			h.allocate(r, backing.Punch)
		}
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
	return queue.Submit, nil
}

// allocate adds the fallocate of a request on each leg, with FUA followed by a sync.
func (h handler) allocate(r *queue.Request, mode uint32) {
	for i, fd := range h.fds {
		at, n := h.set.share(r.Off, int64(r.Len), i)
		if n == 0 {
			continue
		}
		r.Add(uring.Secondary{
			Op: uring.SecondaryFallocate, FD: int32(fd), FileOff: uint64(at), Len: uint32(n), Flags: mode, Link: r.FUA,
		})
		if r.FUA {
			r.Add(sync(fd))
		}
	}
}

func sync(fd int) uring.Secondary {
	return uring.Secondary{Op: uring.SecondaryFsync, FD: int32(fd), Flags: uring.IORING_FSYNC_DATASYNC}
}

// Finish names the leg that has failed. What a file system's fallocate can't do, a worker does.
func (h handler) Finish(r *queue.Request, err error) (queue.Action, error) {
	switch {
	case err == nil:
		return queue.Answer, nil
	case errors.Is(err, unix.EOPNOTSUPP) && (r.Op == queue.OpDiscard || r.Op == queue.OpWriteZeroes):
		return queue.Handoff, nil
	}
	i := h.failed(r)
	return queue.Answer, legError(i, h.legs[i], err)
}

// failed returns the leg of the first secondary that has failed.
func (h handler) failed(r *queue.Request) (leg int) {
	has := func(sec int) bool { _, err := r.Result(sec); return err != nil }
	sec := 0
	if r.HasData() {
		for !has(sec) {
			sec++
		}
		leg, _, _ = h.set.piece(r.Off+int64(sec)*h.set.chunk, 1)
		return leg
	}
	for i := range h.legs {
		if r.Op != queue.OpFlush {
			if _, n := h.set.share(r.Off, int64(r.Len), i); n == 0 {
				continue
			}
		}
		if has(sec) || r.FUA && has(sec+1) {
			return i
		}
		if sec++; r.FUA {
			sec++
		}
	}
	return 0
}

func legError(i int, l *backing.File, err error) error {
	return fmt.Errorf("leg %d, %s: %w", i, l.Path(), err)
}

// Work discards and zeroes by what else there is.
func (h handler) Work(_ context.Context, r *queue.Request) (queue.Action, error) {
	for i, l := range h.legs {
		at, n := h.set.share(r.Off, int64(r.Len), i)
		if n == 0 {
			continue
		}
		var err error
		if r.Op == queue.OpDiscard {
			err = l.Discard(at, n)
		} else if err = l.Zero(at, n, r.NoUnmap); err == nil && r.FUA {
			err = l.Sync()
		}
		if err != nil {
			return queue.Answer, legError(i, l, err)
		}
	}
	return queue.Answer, nil
}

func (h handler) Drop(*queue.Request) {}
