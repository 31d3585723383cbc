package objstore

import (
	"context"
	"sync/atomic"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// An index that breaks while the store is open, for badger is not to be trusted after a fault, is made anew beside the I/O,
// once: reads find the way without (lookup.go) at a higher price until then, and duplicates are not found.

const (
	renewTick  = time.Second
	renewRetry = time.Minute // where there was no room for it
)

// renewable is an index that can break, and be replaced.
type renewable interface {
	// Broken reports that it answers nothing and takes nothing any more.
	Broken() bool
	// Renew makes an empty one to use in its place.
	Renew() (index.Index, error)
}

// currentIndex is the index that the store uses: the one that it was opened with, or the one made in its place.
type currentIndex struct {
	first, second atomic.Pointer[index.Index]
}

func newCurrentIndex(ix index.Index) *currentIndex {
	c := &currentIndex{}
	c.first.Store(&ix)
	return c
}

func (c *currentIndex) now() index.Index {
	if p := c.second.Load(); p != nil {
		return *p
	}
	return *c.first.Load()
}

func (c *currentIndex) Get(h *[32]byte) (index.Place, bool) { return c.now().Get(h) }
func (c *currentIndex) Put(entries []index.Entry) error     { return c.now().Put(entries) }
func (c *currentIndex) Sync() error                         { return c.now().Sync() }
func (c *currentIndex) Done(segment uint32) bool            { return c.now().Done(segment) }
func (c *currentIndex) MarkDone(segments ...uint32) error   { return c.now().MarkDone(segments...) }
func (c *currentIndex) Forget(segment uint32) error         { return c.now().Forget(segment) }

// Bytes are those of both: the files of the first stay until its process ends.
func (c *currentIndex) Bytes() int64 {
	n := (*c.first.Load()).Bytes()
	if p := c.second.Load(); p != nil {
		n += (*p).Bytes()
	}
	return n
}

func (c *currentIndex) Close() error {
	var err error
	if p := c.second.Load(); p != nil {
		err = (*p).Close()
	}
	if ferr := (*c.first.Load()).Close(); err == nil {
		err = ferr
	}
	return err
}

// indexer is the goroutine that makes a broken index anew, and fills it.
func (s *Store) indexer(ctx context.Context) {
	tick := time.NewTicker(renewTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.index.second.Load() == nil {
			r, ok := (*s.index.first.Load()).(renewable)
			if !ok || !r.Broken() {
				continue
			}
			ix, err := r.Renew()
			if err != nil {
				s.log.Warn("the broken index can't be made anew; it is tried again", "error", err, "in", renewRetry)
				if !sleep(ctx, renewRetry) {
					return
				}
				continue
			}
			s.index.second.Store(&ix)
			s.indexFilled = false
			s.missed.Store(0) // what was missed until now is in the records that are read next
		}
		if s.indexFilled {
			continue
		}
		switch err := s.refillIndex(ctx); {
		case err == nil:
			s.indexFilled = true
			s.log.Info("the index was made anew")
		case ctx.Err() != nil:
			return // Resume begins it again
		default:
			s.log.Warn("the index made anew does not take all objects; it is tried again", "error", err, "in", renewRetry)
			if !sleep(ctx, renewRetry) {
				return
			}
		}
	}
}

// refillIndex puts what the segments have into an index made anew, the oldest first: what was stored again has the later
// entry. It takes no more than half of the time, so that requests get the disk.
func (s *Store) refillIndex(ctx context.Context) error {
	var done []uint32
	for _, g := range s.segments.All() {
		start := time.Now()
		objs, err := g.Objects()
		if err != nil {
			if disk.Damaged(err) {
				s.noteDamage(g, err)
				continue
			}
			return err
		}
		entries := make([]index.Entry, 0, len(objs))
		for i := range objs {
			if pl := segment.At(g.ID, objs[i].Block); !s.isSick(pl) {
				entries = append(entries, index.Entry{Hash: objs[i].Hash, Place: indexed(pl)})
			}
		}
		if err := s.index.Put(entries); err != nil {
			return err
		}
		if g.Sealed() {
			done = append(done, g.ID)
		}
		if !sleep(ctx, time.Since(start)) {
			return ctx.Err()
		}
	}
	return s.index.MarkDone(done...)
}

// sleep reports whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
