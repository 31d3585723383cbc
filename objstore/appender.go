package objstore

import (
	"context"
	"slices"
	"sync/atomic"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// appender hands out room in segments of the store's own, for objects that settling or evacuating
// writes. One segment is open at a time; those that are full wait in filled to be sealed. It has one
// owner, and no lock.
type appender struct {
	take   func(context.Context) (*segment.File, error) // an empty segment
	open   *segment.File                                // nil: none yet
	filled []*segment.File

	current atomic.Pointer[segment.File] // open, for other goroutines
}

// appenders are an appender for chunks and one for tree nodes and roots. A settling replaces every
// tree node above what was written, and the root: most of them live until the next one. Chunks live
// as long as their content. So the two lie in segments apart, in which what was written together
// dies together: a run of dead nodes can be punched as a whole, or the segment unlinked. Among
// chunks a node leaves a hole of two blocks.
type appenders struct{ chunks, nodes appender }

// newAppenders returns appenders that get empty segments from take.
func newAppenders(take func(context.Context) (*segment.File, error)) appenders {
	return appenders{appender{take: take}, appender{take: take}}
}

// of returns the appender for objects of a kind.
func (a *appenders) of(k merkle.Kind) *appender {
	if k == merkle.KindChunk {
		return &a.chunks
	}
	return &a.nodes
}

// slot finds room for n bytes, and returns the segment and the offset in its file.
func (a *appender) slot(ctx context.Context, n int64) (*segment.File, int64, error) {
	n = disk.RoundUp(n, disk.BlockSize)
	if g := a.open; g != nil && g.Next+n > g.Capacity {
		a.end()
	}
	if a.open == nil {
		g, err := a.take(ctx)
		if err != nil {
			return nil, 0, err
		}
		a.open = g
		a.current.Store(g)
	}
	off := a.open.Next
	a.open.Next += n
	return a.open, off, nil
}

// end has the next object go to another segment.
// REQUIRES: a segment is open.
func (a *appender) end() {
	a.open.Full = true
	a.filled = append(a.filled, a.open)
	a.open = nil
	a.current.Store(nil)
}

// nextFilled takes a segment that is full off the list; nil: there is none.
func (a *appender) nextFilled() *segment.File {
	if len(a.filled) == 0 {
		return nil
	}
	g := a.filled[0]
	a.filled = a.filled[1:]
	return g
}

// all returns both.
func (a *appenders) all() []*appender { return []*appender{&a.chunks, &a.nodes} }

// has reports whether objects are written to a segment.
func (a *appenders) has(g *segment.File) bool {
	return slices.ContainsFunc(a.all(), func(a *appender) bool { return a.current.Load() == g })
}

// leave has the next objects go to another segment, if they went to g.
func (a *appenders) leave(g *segment.File) {
	for _, a := range a.all() {
		if a.open == g {
			a.end()
		}
	}
}
