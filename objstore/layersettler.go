package objstore

import (
	"context"
	"log/slog"

	"varve/objstore/internal/extent"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
)

// layerSettler settles layers (settling), and has what that needs of the store. Which layer settles
// when is the settler's decision.
//
// One settling at a time runs in a store, on the settler's goroutine: appenders has no lock. All
// else may be used by others at the same time.
type layerSettler struct {
	segments *segment.Table
	index    *storeIndex
	objects  *object.Reader
	cache    *leafCache
	lookups  *segment.Pins // held while a location is read that was looked up
	heads    heads
	barrier  barrier
	gate     gate
	space    *spaceAccount

	recorder  *recorder
	appenders appenders // of objects that settlings write

	giveWay func(ctx context.Context, v *volume, bytes int) error // called before some bytes more are settled; waits for requests
	punch   func(g *segment.File, from, to int64)                 // frees bytes that nothing refers to; an error is logged

	dead      func(*volume, *layer) reclaimable // what is to be reclaimed of a layer that has settled
	reclaimer *reclaimer
	log       *slog.Logger
}

// barrier keeps what a settling refers to from a collection that runs beside it: the collector, as
// a settling sees it. Its methods never block.
type barrier interface {
	// settle notes that a settling begins. It returns a function that is to be called when the
	// settling has ended, whether its head was published or not.
	settle() (ended func())
	// keep keeps an object that the settling is about to look for, or to store.
	keep(h *merkle.Hash)
	// mayHaveDied notes that up to n bytes may be referred to by nothing any more.
	mayHaveDied(n int64)
}

// heads is where the roots of volumes are recorded: the catalog, as a settling sees it.
type heads interface {
	// publish makes the head of a volume durable, and assigns its root to the snapshots of that
	// generation. may completes the record, or refuses it; took runs when the record has taken
	// effect. Both run with the catalog's mu held, and must not block. If ctx ends before may has
	// run, nothing has happened. After any other error the head is as it was, or the store takes no
	// writes any more.
	publish(ctx context.Context, v *volume, head *refs.Record, may func() error, took func()) error
	// settleViews sets a base of their own for the views of a generation that has settled. The
	// catalog's mu is held.
	settleViews(v *volume, gen uint64, cache *leafCache, root merkle.Root)
	// trimObjectLogs leaves out of lengths what is recorded already. The catalog's mu is held.
	trimObjectLogs(lengths map[uint32]int64, segments *segment.Table)
	// mayPin returns an error if a snapshot, or a reader of one, needs one of the chunks settled.
	mayPin(st *settling, chunks ...extent.Extent) error
	// mayPinLocked is mayPin, with the catalog's mu held.
	mayPinLocked(st *settling, chunks []extent.Extent) error
}
