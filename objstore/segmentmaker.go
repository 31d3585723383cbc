package objstore

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// segmentMaker makes segments, and keeps an empty one at hand so that a write seldom waits for a
// file to be made.
//
// A segment is in the table, and known to the index as having all its objects entered, from the
// moment that it is made: it has none yet. A segment that was not used is removed again; the next
// opening removes those that a killed process leaves.
//
// It has no lock. The goroutine that keeps the spare starts with the first segment that is asked
// for, since a store that is only looked at makes none, and ends when the store closes.
type segmentMaker struct {
	fs       vfs.FS
	size     int64 // bytes that a segment has room for
	store    uuid.UUID
	segments *segment.Table
	index    *storeIndex
	gate     gate
	newID    func(context.Context) (uint32, error) // durable: no two segments ever have one ID
	log      *slog.Logger

	ctx   context.Context   //nolint:containedctx // the life of the store, ended by Close
	run   func(func()) bool // runs a function on a goroutine that Close waits for; false: the store is being closed
	start sync.Once         // starts keep
	spare chan emptySegment // holds none: keep offers one at a time
}

// emptySegment is a new segment, or why there is none.
type emptySegment struct {
	seg *segment.File
	err error
}

// keep makes a spare segment whenever the last one was taken, until the store closes.
func (m *segmentMaker) keep() {
	for {
		g, err := m.create(m.ctx)
		select {
		case m.spare <- emptySegment{g, err}:
		case <-m.ctx.Done():
			if g != nil {
				m.giveBack(g)
			}
			return
		}
	}
}

// create makes a segment. It blocks.
func (m *segmentMaker) create(ctx context.Context) (*segment.File, error) {
	id, err := m.newID(ctx)
	if err != nil {
		return nil, err
	}
	g, err := segment.Create(m.fs, id, m.size, m.store)
	if err != nil {
		return nil, m.gate.spaceError(err)
	}
	failpoint.Here(failpoint.SegmentMade)
	if err := m.fs.SyncDir(segment.Dir); err != nil {
		g.Data.Close()
		if disk.Transient(err) {
			return nil, errors.Join(err, m.fs.Remove(segment.Name(id)))
		}
		return nil, m.gate.fail(err)
	}
	m.index.entered(g.ID) // before it has objects
	m.segments.Add(g)
	return g, nil
}

func (m *segmentMaker) keepSpare() { m.start.Do(func() { m.run(m.keep) }) }

// tryTake returns an empty segment if there is one at hand, or nil. It never blocks.
func (m *segmentMaker) tryTake() *segment.File {
	m.keepSpare()
	select {
	case e := <-m.spare:
		return e.seg // nil if it could not be made: take returns the error
	default:
		return nil
	}
}

// take returns an empty segment. It blocks until there is one.
func (m *segmentMaker) take(ctx context.Context) (*segment.File, error) {
	m.keepSpare()
	select {
	case e := <-m.spare:
		if e.err == nil {
			return e.seg, nil
		}
		// What failed when the spare was made may have passed.
		return m.create(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-m.ctx.Done():
		return nil, ErrClosed
	}
}

// giveBack removes a segment that was never used. It blocks.
func (m *segmentMaker) giveBack(g *segment.File) {
	m.segments.Remove(g.ID)
	m.index.forget(g.ID)
	g.Data.Close()
	if err := m.fs.Remove(segment.Name(g.ID)); err != nil {
		m.log.Warn("an empty segment stays behind", "segment", g.ID, "error", err)
	}
}
