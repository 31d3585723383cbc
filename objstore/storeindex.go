package objstore

import (
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
	"varve/objstore/queuethread"
)

// storeIndex is the index of an open store: the one that the store was opened with, or the one that
// replaced it after it broke. It also knows which segments the index has all the objects of.
// The objects of the others are found in the segments' own object lists (package object) until the
// indexer has entered them.
//
// While the index is rebuilt (reindexer), what is stored is entered into the next one too.
type storeIndex struct {
	current atomic.Pointer[openIndex]
	renewed atomic.Bool                // current has replaced one that broke, and no other does
	next    atomic.Pointer[storeIndex] // that is being filled; nil: none

	// putMu keeps an entry that was found in an old object list from replacing one that is newer:
	// that of an object which was stored again, because its old location is damaged. Held over
	// writes of the index, and over no other I/O.
	putMu lockorder.IOMutex[lockorder.IndexPut]

	mu       lockorder.Mutex[lockorder.Memory]
	complete map[uint32]bool // segments whose objects have all been entered
	missed   int64           // how often entries were not taken
	broke    []index.Index   // that were replaced, and stay open until the store is closed
}

// openIndex is an index, and how many calls of it are under way.
type openIndex struct {
	index.Index
	users atomic.Int64
}

func newStoreIndex(ix index.Index) *storeIndex {
	x := &storeIndex{complete: map[uint32]bool{}}
	x.current.Store(&openIndex{Index: ix})
	return x
}

// now returns the index, which the reindexer may close once it has been replaced: putMu is held, or
// the caller is the indexer, or the store is being opened.
func (x *storeIndex) now() index.Index {
	queuethread.Blocks("a look-up in the index")
	return x.current.Load().Index
}

// acquire is now for all other callers; the index stays open until release.
func (x *storeIndex) acquire() *openIndex {
	queuethread.Blocks("a look-up in the index")
	for {
		o := x.current.Load()
		o.users.Add(1)
		if x.current.Load() == o {
			return o
		}
		o.users.Add(-1) // it was replaced meanwhile
	}
}

func (o *openIndex) release() { o.users.Add(-1) }

func (x *storeIndex) Get(h *merkle.Hash) (segment.Location, bool) {
	o := x.acquire()
	defer o.release()
	p, ok := o.Get((*[32]byte)(h))
	return segment.At(p.Segment, p.Block), ok
}

// put enters objects that were stored just now, all in one segment.
func (x *storeIndex) put(entries []index.Entry) error {
	x.putMu.Lock()
	defer x.putMu.Unlock()
	if n := x.next.Load(); n != nil && len(entries) > 0 {
		if err := n.now().Put(entries); err != nil {
			n.lacks(entries[0].Location.Segment) // the reindexer enters that one again
		}
	}
	return x.now().Put(entries)
}

// markDone marks a segment in the index.
func (x *storeIndex) markDone(id uint32) error {
	o := x.acquire()
	defer o.release()
	return o.MarkDone(id)
}

// conflict is an entry, and the other location that the index has for its hash.
type conflict struct {
	i   int // of the entry
	has index.Location
}

// putMissing enters those objects that the index has no location of, and returns the ones that it
// has another location of.
func (x *storeIndex) putMissing(entries []index.Entry) ([]conflict, error) {
	x.putMu.Lock()
	defer x.putMu.Unlock()
	ix := x.now()
	var others []conflict
	missing := make([]index.Entry, 0, len(entries))
	for i := range entries {
		switch p, ok := ix.Get(&entries[i].Hash); {
		case !ok:
			missing = append(missing, entries[i])
		case p != entries[i].Location:
			others = append(others, conflict{i, p})
		}
	}
	if len(missing) == 0 {
		return others, nil
	}
	return others, ix.Put(missing)
}

// replace replaces entries that turned out to be wrong, unless they have changed meanwhile.
func (x *storeIndex) replace(entries []index.Entry, wrong []conflict) error {
	x.putMu.Lock()
	defer x.putMu.Unlock()
	ix := x.now()
	instead := make([]index.Entry, 0, len(wrong))
	for _, c := range wrong {
		if p, ok := ix.Get(&entries[c.i].Hash); !ok || p == c.has {
			instead = append(instead, entries[c.i])
		}
	}
	if len(instead) == 0 {
		return nil
	}
	return ix.Put(instead)
}

// remove removes those entries whose location is still the one in the index, and in the one that is
// to replace it: an object that was stored again keeps its newer one.
func (x *storeIndex) remove(entries []index.Entry) error {
	x.putMu.Lock()
	defer x.putMu.Unlock()
	var err error
	if n := x.next.Load(); n != nil {
		err = removeFrom(n.now(), entries)
	}
	return errors.Join(err, removeFrom(x.now(), entries))
}

// removeFrom is remove for one index.
// REQUIRES: putMu is held.
func removeFrom(ix index.Index, entries []index.Entry) error {
	gone := make([][32]byte, 0, len(entries))
	for i := range entries {
		if p, ok := ix.Get(&entries[i].Hash); ok && p == entries[i].Location {
			gone = append(gone, entries[i].Hash)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return ix.Delete(gone)
}

// broken reports whether the index answers nothing and takes nothing any more, and can be replaced,
// which is done once.
func (x *storeIndex) broken() (renewable, bool) {
	if x.renewed.Load() {
		return nil, false
	}
	r, ok := x.now().(renewable)
	return r, ok && r.Broken()
}

// use replaces a broken index by an empty one.
func (x *storeIndex) use(ix index.Index) {
	x.putMu.Lock()
	defer x.putMu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.current.Swap(&openIndex{Index: ix})
	x.broke = append(x.broke, old.Index) // badger can't be closed reliably after a failure
	x.renewed.Store(true)
	x.missed++
	clear(x.complete)
}

// adopt replaces the index by the next one, which is complete, and returns the one before once no
// call uses it any more.
func (x *storeIndex) adopt(n *storeIndex) (old index.Index) {
	x.putMu.Lock()
	x.next.Store(nil)
	complete := n.completed() // what is noted from here on may be missing, and is entered once more
	x.mu.Lock()
	before := x.current.Swap(n.current.Load())
	x.renewed.Store(false)
	x.complete = complete
	x.missed++
	x.mu.Unlock()
	x.putMu.Unlock()
	for before.users.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	return before.Index
}

// completed returns the segments that the index has all the objects of, for the caller to keep.
func (x *storeIndex) completed() map[uint32]bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return maps.Clone(x.complete)
}

// abandon ends the filling of the next index, if there is one, and returns once no call enters
// anything into it any more.
func (x *storeIndex) abandon() {
	x.putMu.Lock()
	defer x.putMu.Unlock()
	x.next.Store(nil)
}

// entered notes that the index has all the objects of a new segment, which has none, or of a sealed
// one that is marked.
func (x *storeIndex) entered(id uint32) {
	if n := x.next.Load(); n != nil {
		n.entered(id)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.complete[id] = true
}

// begin returns what enteredSince has to be told.
func (x *storeIndex) begin() (missed int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.missed
}

// enteredSince is entered for a segment whose objects were looked up and entered after begin. It
// reports false if entries were not taken meanwhile: they may have been the segment's.
func (x *storeIndex) enteredSince(id uint32, missed int64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.missed == missed {
		x.complete[id] = true
	}
	return x.complete[id]
}

// lacks notes that objects of a segment were not taken.
func (x *storeIndex) lacks(id uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.missed++
	delete(x.complete, id)
}

// has reports whether all of a segment's objects have been entered.
func (x *storeIndex) has(id uint32) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.complete[id]
}

// forget drops what is known of a segment that is no more.
func (x *storeIndex) forget(id uint32) {
	if n := x.next.Load(); n != nil {
		n.forget(id)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.complete, id)
}

// bytes are those of all that are open: the files of one that broke stay until its process ends.
func (x *storeIndex) bytes() int64 {
	o := x.acquire()
	defer o.release()
	sum := o.Bytes()
	if n := x.next.Load(); n != nil {
		sum += n.bytes()
	}
	x.mu.Lock()
	broke := slices.Clone(x.broke)
	x.mu.Unlock()
	for _, ix := range broke {
		sum += ix.Bytes()
	}
	return sum
}

// close closes all that are open.
// REQUIRES: no call uses the index any more.
func (x *storeIndex) close() error {
	err := x.now().Close()
	for _, ix := range x.broke {
		err = errors.Join(err, ix.Close())
	}
	return err
}
