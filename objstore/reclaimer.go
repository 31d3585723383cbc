package objstore

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"varve/objstore/internal/lockorder"
)

// reclaimer frees what is not needed any more: today the room of settled layers, in the order
// in which those of a volume have settled. It waits for readers, and readers may wait for settling:
// a queue's thread that waits for room in the tail can't end its reads meanwhile. So each volume
// that has something to free has a goroutine for it. Only plans of a volume read what that
// volume frees, and a plan that is held on one volume does not delay the others.
//
// The caller of add knows what is dead (a settling knows its layer's slots). The reclaimer calls
// returned when room was freed, for the space account. A collector of dead objects queues its
// work here as well, as a reclaimable.
//
// Invariants:
//
//   - A volume with something queued has exactly one goroutine, between start and stop, which works
//     on the first item.
//   - An item leaves the queue when it was freed, or can't be freed before the store
//     opens again. An interrupted item stays, and start begins it again.
//   - pending counts the queued items of each volume, and those that a settling has announced
//     (expect) and is about to queue: a layer that is seen to have settled is found pending. left is
//     the sum.
//
// mu is never held over I/O.
type reclaimer struct {
	returned func()               // called when room was freed, or won't be
	uptime   func() time.Duration // of the store
	log      *slog.Logger

	mu      lockorder.Mutex[lockorder.Memory]
	queues  map[*volume][]reclaimable
	pending map[*volume]int
	done    event // a volume has nothing pending any more

	workers sync.WaitGroup
	left    atomic.Int64
	since   atomic.Int64 // the uptime, in nanoseconds, at which left changed last
}

// reclaimable is something whose room can be freed.
type reclaimable interface {
	// reclaim frees the room. It blocks, and may be called again if ctx has ended it.
	reclaim(ctx context.Context) error
	// abandon leaves the room to the next opening.
	abandon()
}

func newReclaimer(log *slog.Logger, uptime func() time.Duration, returned func()) *reclaimer {
	return &reclaimer{log: log, uptime: uptime, returned: returned, queues: map[*volume][]reclaimable{}, pending: map[*volume]int{}}
}

// expect announces that add is about to be called. It never blocks.
func (r *reclaimer) expect(v *volume) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(v, 1)
}

// count adds n to what is pending of a volume.
// REQUIRES: mu is held.
func (r *reclaimer) count(v *volume, n int) {
	r.since.Store(int64(r.uptime()))
	r.left.Add(int64(n))
	if r.pending[v] += n; r.pending[v] == 0 {
		delete(r.pending, v)
		r.done.fire()
	}
}

// returning reports whether room is about to be freed. Readers may delay that, and a write
// does not wait for them for long. It never blocks.
func (r *reclaimer) returning() bool {
	return r.left.Load() > 0 && r.uptime()-time.Duration(r.since.Load()) < reclaimPatience
}

// add queues an item that expect has announced. A goroutine gives it back; the goroutine ends with
// ctx, and stop waits for it.
func (r *reclaimer) add(ctx context.Context, v *volume, item reclaimable) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queues[v] = append(r.queues[v], item)
	if len(r.queues[v]) == 1 {
		r.workers.Go(func() { r.run(ctx, v) })
	}
}

// start continues with what is queued, after the end of an earlier context.
func (r *reclaimer) start(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for v := range r.queues {
		r.workers.Go(func() { r.run(ctx, v) })
	}
}

// stop waits for the goroutines, whose context the caller has ended. add must not be called
// meanwhile.
func (r *reclaimer) stop() { r.workers.Wait() }

// abandon leaves what is queued to the next opening. It is called after stop.
func (r *reclaimer) abandon() {
	for _, queue := range r.queues {
		for _, item := range queue {
			item.abandon()
		}
	}
}

// run frees what is queued for a volume, until the queue is empty.
func (r *reclaimer) run(ctx context.Context, v *volume) {
	for item := r.first(v); item != nil; item = r.next(v) {
		err := item.reclaim(ctx)
		if err != nil && ctx.Err() != nil {
			return
		}
		if err != nil {
			r.log.Error("space of a settled layer is not freed until the store opens again", "volume", v.Name(), "error", err)
		}
	}
}

func (r *reclaimer) first(v *volume) reclaimable {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queues[v][0]
}

// next removes the first item from the queue and returns the one behind it, or nil if there is
// none: the goroutine ends.
//
// It calls returned while the item still counts as pending, too: a request that has looked at the disk
// before the item was freed finds that room is about to be freed, or that it was freed since. Otherwise
// the request could be refused, although there is room.
func (r *reclaimer) next(v *volume) reclaimable {
	r.returned()
	defer r.returned()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(v, -1)
	rest := r.queues[v][1:]
	if len(rest) > 0 {
		r.queues[v] = rest
		return rest[0]
	}
	delete(r.queues, v)
	return nil
}

// wait returns when everything that is pending of v, or of all volumes if v is nil, was given
// back. When end is closed it returns ErrClosed.
func (r *reclaimer) wait(ctx context.Context, v *volume, end <-chan struct{}) error {
	for {
		done := r.done.next()
		if r.idle(v) {
			return nil
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return ErrClosed
		}
	}
}

// idle reports whether nothing is pending of v, or of any volume if v is nil.
func (r *reclaimer) idle(v *volume) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v == nil {
		return len(r.pending) == 0
	}
	return r.pending[v] == 0
}

// waitReclaimed returns when all settled layers of v, or of all volumes if v is nil, have given
// their room back.
func (s *Store) waitReclaimed(ctx context.Context, v *volume) error {
	return s.reclaimer.wait(ctx, v, s.ctx.Done())
}
