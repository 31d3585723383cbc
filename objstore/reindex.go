package objstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/index"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/segment"
)

// reindexer rebuilds the index from the segments' object lists, beside I/O, on the indexer's
// goroutine. The index that counts is used until the next one is complete, so that look-ups stay
// fast, and duplicates are found meanwhile:
//
//	fill      the objects of all segments are entered into the next index, and what is stored now into both
//	install   the next index is made durable and renamed to the place of the other
//	adopt     look-ups go to it; the other is closed and removed
//
// Quiesce interrupts it and Resume continues. So does the next opening after a kill: the directory
// of the next index is what tells that one was wanted, and its marks tell which segments it has. An
// error, such as a full disk, ends it, and removes the next index.
type reindexer struct {
	indexer *indexer
	open    func() (nextIndex, error)
	old     func() error // removes the files of an index that was replaced
	log     *slog.Logger
	wanted  chan struct{} // wakes the indexer

	mu    lockorder.Mutex[lockorder.Memory]
	info  *ReindexInfo // nil: none is wanted
	last  error        // how the last one ended
	ended event        // fired when info becomes nil

	next nextIndex // the indexer's goroutine and Close alone use it
}

// nextIndex is an index that is to replace another; *index.Next is one.
type nextIndex interface {
	index.Index
	Install() error
	Discard() error
}

// ReindexInfo is how far the rebuilding of the index is.
type ReindexInfo struct {
	Begun    time.Time `json:"begun"`
	Segments int       `json:"segments"` // about how many there are
	Done     int       `json:"done"`     // of them, those whose objects were entered
}

// Reindex has the index rebuilt in the background. If it is being rebuilt already, nothing else
// begins.
func (s *Store) Reindex() error {
	if err := s.writeError(); err != nil {
		return fmt.Errorf("reindex: %w", err)
	}
	s.indexer.rebuild.want(s.opts.Now())
	return nil
}

// WaitReindex waits until the index is not being rebuilt any more, and returns how the last
// rebuilding ended. progress, which may be nil, is called now and then.
func (s *Store) WaitReindex(ctx context.Context, progress func(ReindexInfo)) error {
	r := s.indexer.rebuild
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		ended := r.ended.next()
		i, last := r.state()
		if i == nil {
			return last
		}
		if progress != nil {
			progress(*i)
		}
		select {
		case <-ended:
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for reindex: %w", ctx.Err())
		case <-s.ctx.Done():
			return fmt.Errorf("wait for reindex: %w", ErrClosed)
		}
	}
}

// want asks for a rebuilding.
func (r *reindexer) want(now time.Time) {
	r.mu.Lock()
	if r.info == nil {
		r.info, r.last = &ReindexInfo{Begun: now.UTC().Truncate(time.Second)}, nil
	}
	r.mu.Unlock()
	select {
	case r.wanted <- struct{}{}:
	default: // the indexer is awake
	}
}

// state returns how far the rebuilding is, or how the last one ended.
func (r *reindexer) state() (*ReindexInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.info == nil {
		return nil, r.last
	}
	i := *r.info
	return &i, nil
}

// step rebuilds the index if that is wanted, until ctx ends.
func (r *reindexer) step(ctx context.Context) {
	if i, _ := r.state(); i == nil {
		return
	}
	begun := time.Now()
	err := r.rebuild(ctx)
	if ctx.Err() != nil {
		return // Resume, or the next opening, continues
	}
	if err != nil {
		r.indexer.index.abandon() // before it is closed
		if r.next != nil {
			err = errors.Join(err, r.next.Discard())
		}
		r.log.Warn("the index was not rebuilt; it is used as it was", "error", err)
	} else {
		r.log.Info("the index is rebuilt", "seconds", time.Since(begun).Seconds())
	}
	r.next = nil
	r.mu.Lock()
	r.info, r.last = nil, err
	r.mu.Unlock()
	r.ended.fire()
}

func (r *reindexer) rebuild(ctx context.Context) (err error) {
	x := r.indexer
	if r.next == nil {
		if r.next, err = r.open(); err != nil {
			return err
		}
	}
	n := x.index.next.Load()
	if n == nil {
		n = newStoreIndex(r.next)
		for _, g := range x.segments.All() { // an earlier process may have begun
			if g.Sealed() && r.next.Done(g.ID) {
				n.entered(g.ID)
			}
		}
		x.index.next.Store(n)
	}
	failpoint.Here(failpoint.ReindexBegun)
	b := &indexer{
		index: n, segments: x.segments, pins: x.pins, sketches: &segment.Sketches{}, objects: x.objects, requests: x.requests, log: x.log,
		filled: func(segments int) {
			r.mu.Lock()
			r.info.Done += segments
			r.mu.Unlock()
		},
	}
	for {
		todo, all := b.unindexed(), len(x.segments.All())
		if len(todo) == 0 {
			break
		}
		r.mu.Lock()
		r.info.Segments, r.info.Done = all, all-len(todo)
		r.mu.Unlock()
		if err := b.fill(ctx, todo); err != nil {
			return err
		}
		if left := b.unindexed(); len(left) >= len(todo) {
			return fmt.Errorf("%d of %d segments can't be entered", len(left), all)
		}
	}
	return r.install(n)
}

// install has the next index, which is complete, replace the other.
func (r *reindexer) install(n *storeIndex) error {
	x := r.indexer
	var ids []uint32
	for _, g := range x.segments.All() {
		if g.Sealed() && n.has(g.ID) {
			ids = append(ids, g.ID)
		}
	}
	if err := r.next.MarkDone(ids...); err != nil {
		return err
	}
	failpoint.Here(failpoint.ReindexFilled)
	if err := r.next.Install(); err != nil {
		return err
	}
	failpoint.Here(failpoint.ReindexInstalled)
	if err := errors.Join(x.index.adopt(n).Close(), r.old()); err != nil {
		r.log.Warn("files of the index before stay behind until the store opens again", "error", err)
	}
	return nil
}

// close closes a next index that is not complete; the next opening continues with it.
// REQUIRES: the indexer has ended.
func (r *reindexer) close() error {
	if r.next == nil {
		return nil
	}
	return r.next.Close()
}

// openReindexer makes the reindexer, and has it continue where an earlier process was.
func (s *Store) openReindexer() {
	r := &reindexer{indexer: s.indexer, log: s.log, wanted: make(chan struct{}, 1), open: s.opts.nextIndex, old: func() error { return nil }}
	s.indexer.rebuild = r
	switch {
	case s.opts.LookOnly:
		return
	case s.opts.Index == nil:
		r.open = func() (nextIndex, error) { return s.openNext() }
		r.old = func() error {
			dir, _, err := s.indexDir(IndexDir)
			if err != nil {
				return err
			}
			return index.RemoveOld(dir)
		}
		dir, _, err := s.indexDir(IndexDir)
		if err != nil || !index.HasNext(dir) {
			return
		}
		s.log.Info("continuing to rebuild the index, as an earlier process began")
		r.want(s.opts.Now())
	case r.open == nil: // of a test, which has an index in memory
		r.open = func() (nextIndex, error) { return memNext{index.NewMem()}, nil }
	}
}

// openNext opens the index that is to replace the present one.
func (s *Store) openNext() (*index.Next, error) {
	dir, o, err := s.indexDir(IndexDir + ".new")
	if err != nil {
		return nil, err
	}
	return index.OpenNext(dir, o)
}

// indexDir returns the path of the index, and options for it whose files come to lie in a directory
// of that name, or in IndexDir when it has been renamed to that.
func (s *Store) indexDir(name string) (string, index.Options, error) {
	// It must have its room within what writes leave free, or a store that they filled would not
	// open.
	table := min(max(s.space.reserve.Load()/16, 1<<20), 4<<20)
	o := index.Options{Logger: s.log, MemTable: table}
	dir := s.dir
	if s.files != nil {
		var err error
		if dir, err = s.files.Handle(); err != nil { // badger takes a path, and stays in it when the store is moved
			return "", o, err
		}
		o.Made = func() error {
			if _, err := s.files.Used(name); err != nil {
				return s.files.OwnAll(IndexDir)
			}
			return s.files.OwnAll(name)
		}
	}
	return filepath.Join(dir, IndexDir), o, nil
}

// memNext is a next index in memory.
type memNext struct{ index.Index }

func (memNext) Install() error { return nil }

func (memNext) Discard() error { return nil }
