package objstore

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/object"
	"varve/objstore/internal/segment"
)

// What the index lacks is entered from the segments' object lists: what was being written, after a
// kill or an orderly end; all, where the index was deleted or could not be read; and all again if
// it breaks while the store is open, for badger is not to be trusted after a fault. Opening does
// the first, whose objects are in memory. The indexer does the others, beside the I/O, so that
// devices do not wait for it.
//
// Until the index is complete, objects are found in the object lists, at a higher price (package
// object). Duplicates of what it lacks would be stored again for good. So settling waits for it, as
// it waits for a quiet moment: until a tail presses, or a caller waits for settling.
//
// An object may have been stored twice, because its first copy was damaged. An index that was lost
// and filled again does not tell which copy is good. So if an object list names another location
// than the index, the copy at the index's location is read.

const (
	renewTick  = time.Second
	renewRetry = time.Minute // where there was no room for it

	// longestPause is how long at most the indexer gives way after a segment, however long that
	// took.
	longestPause = time.Second

	// indexBatch is how many entries are put at once, and wait for nothing but each other.
	indexBatch = 256
	// indexMark is after how many segments what was entered is synced and marked, so that a kill
	// costs no more.
	indexMark = 64
)

// renewable is an index that can break, and be replaced.
type renewable interface {
	// Broken reports that it answers nothing and takes nothing any more.
	Broken() bool
	// Renew makes an empty index that replaces it.
	Renew() (index.Index, error)
}

// indexer enters into the index what it lacks: once when the store opens, and then on a goroutine
// of its own, which Quiesce ends and Resume starts again. It has no lock: only one of the two runs
// at a time, but for enterFound, which readers call too.
type indexer struct {
	index    *storeIndex
	segments *segment.Table
	pins     *segment.Pins
	sketches *segment.Sketches
	objects  *object.Reader
	requests func() uint64 // that there have been
	log      *slog.Logger

	filling atomic.Bool // the index is being filled, and settling waits for it

	rebuild *reindexer
	filled  func(segments int) // called when more segments are entered; nil: not needed
}

// open finds out which segments the index has all the objects of, when the store opens: the sealed
// ones that it has a mark of. It enters the objects of the others, or leaves all that are sealed to
// run if they are more than atOnce.
func (x *indexer) open(ctx context.Context, atOnce int) error {
	for _, g := range x.segments.All() {
		if g.Sealed() && x.index.now().Done(g.ID) {
			x.index.entered(g.ID)
		}
	}
	todo := x.unindexed()
	open := slices.DeleteFunc(slices.Clone(todo), func(g *segment.File) bool { return g.Sealed() })
	if later := len(todo) - len(open); later > max(atOnce, 0) {
		x.log.Warn("the index is not complete; until it is, look-ups are slow", "segments", later)
		x.filling.Store(true)
		todo = open
	}
	err := x.fill(ctx, todo)
	if err != nil && ctx.Err() == nil {
		// A full disk must not keep the store from opening.
		x.log.Warn("the index can't be filled", "error", err)
		return nil
	}
	return err
}

// unindexed are the segments that may have objects which the index lacks, the newest first: what
// was stored again because its first location is damaged has its entry before that one comes.
// Damaged segments are searched by content instead.
func (x *indexer) unindexed() []*segment.File {
	all := slices.DeleteFunc(x.segments.All(), func(g *segment.File) bool { return x.index.has(g.ID) || g.Damaged() })
	slices.Reverse(all)
	return all
}

// run enters what the index lacks, and replaces a broken index, until ctx ends.
func (x *indexer) run(ctx context.Context) {
	tick := time.NewTicker(renewTick)
	defer tick.Stop()
	for {
		err := x.renew()
		if err == nil {
			err = x.complete(ctx)
			if _, broken := x.index.broken(); broken {
				err = nil // it is replaced at the next tick
			}
		}
		if ctx.Err() != nil {
			return // Resume continues
		}
		x.filling.Store(false) // a full disk must not keep anything from settling
		x.rebuild.step(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			x.log.Warn("objects were not entered into the index; this is retried", "error", err, "in", renewRetry)
			if !sleep(ctx, failpoint.Limit(renewRetry)) {
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-x.rebuild.wanted:
		}
	}
}

// renew replaces a broken index by an empty one.
func (x *indexer) renew() error {
	r, broken := x.index.broken()
	if !broken {
		return nil
	}
	ix, err := r.Renew()
	if err != nil {
		return err
	}
	x.filling.Store(true)
	x.index.use(ix)
	return nil
}

// complete enters what the index lacks.
func (x *indexer) complete(ctx context.Context) error {
	todo := x.unindexed()
	if len(todo) == 0 {
		return nil
	}
	start := time.Now()
	if err := x.fill(ctx, todo); err != nil {
		return err
	}
	x.log.Info("the index is complete", "segments_entered", len(todo), "seconds", time.Since(start).Seconds())
	return nil
}

// fill enters the objects of segments. While there are requests it takes no more than half of the
// time, so that they get the disk. Sealed segments are marked when their entries are durable, so
// that no opening reads them again.
func (x *indexer) fill(ctx context.Context, todo []*segment.File) error {
	var done []uint32
	mark := func() error {
		ids := done
		done = nil
		return x.index.now().MarkDone(ids...)
	}
	requests := x.requests()
	for _, g := range todo {
		start := time.Now()
		if err := failpoint.Err(failpoint.IndexFails); err != nil {
			return err
		}
		sealed, err := x.enterSegment(ctx, g)
		if err != nil {
			return err
		}
		failpoint.Here(failpoint.IndexEntered)
		if x.filled != nil {
			x.filled(1)
		}
		if sealed {
			done = append(done, g.ID)
		}
		if len(done) == indexMark {
			if err := mark(); err != nil {
				return err
			}
		}
		if now := x.requests(); now != requests {
			requests = now
			if !sleep(ctx, min(time.Since(start), longestPause)) {
				return ctx.Err()
			}
		}
	}
	return mark()
}

// enterSegment enters the objects of one segment. sealed reports that there will be no more of
// them.
func (x *indexer) enterSegment(ctx context.Context, g *segment.File) (sealed bool, err error) {
	defer x.pins.Hold().Release()
	if x.segments.Get(g.ID) != g {
		return false, nil // it was retired since the list was made
	}
	missed := x.index.begin()
	objs, err := g.Objects()
	if disk.Damaged(err) {
		x.objects.NoteDamage(g, err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for batch := range slices.Chunk(objs, indexBatch) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		found := make([]object.Found, len(batch))
		for i, o := range batch {
			found[i] = object.Found{Hash: o.Hash, Kind: o.Kind, Location: segment.At(g.ID, o.Block)}
		}
		if err := x.enterFound(found); err != nil {
			return false, err
		}
	}
	if !x.index.enteredSince(g.ID, missed) {
		return false, nil // some of it was not taken: the next round enters it
	}
	x.sketches.Drop(g.ID)
	return g.Sealed(), nil // else it is marked when it is sealed
}

// enterFound enters objects that were found in records. What the index knows of them stays if it is
// true.
func (x *indexer) enterFound(found []object.Found) error {
	entries := make([]index.Entry, 0, len(found))
	from := make([]*object.Found, 0, len(found))
	for i := range found {
		if o := &found[i]; !x.objects.Quarantine.Suspect(o.Location) {
			entries = append(entries, index.Entry{Hash: o.Hash, Location: indexed(o.Location)})
			from = append(from, o)
		}
	}
	others, err := x.index.putMissing(entries)
	if err != nil {
		return err
	}
	wrong := slices.DeleteFunc(others, func(c conflict) bool {
		loc := segment.At(c.has.Segment, c.has.Block)
		return x.objects.Intact(loc, &from[c.i].Hash, from[c.i].Kind)
	})
	return x.index.replace(entries, wrong)
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

// objectIndex is the index as package object asks for it.
type objectIndex struct {
	*storeIndex
	enter func([]object.Found)
}

func (x objectIndex) Complete(segment uint32) bool { return x.has(segment) }

func (x objectIndex) Found(objs []object.Found) { x.enter(objs) }

// indexed is a location as the index keeps it.
func indexed(l segment.Location) index.Location {
	return index.Location{Segment: l.Segment(), Block: l.Block()}
}
