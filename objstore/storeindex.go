package objstore

import (
	"sync/atomic"

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
type storeIndex struct {
	opened index.Index
	anew   atomic.Pointer[index.Index] // nil as long as opened works

	// putMu keeps an entry that was found in an old object list from replacing one that is newer:
	// that of an object which was stored again, because its old location is damaged. Held over
	// writes of the index, and over no other I/O.
	putMu lockorder.IOMutex[lockorder.IndexPut]

	mu       lockorder.Mutex[lockorder.Memory]
	complete map[uint32]bool // segments whose objects have all been entered
	missed   int64           // how often entries were not taken
}

func newStoreIndex(ix index.Index) *storeIndex {
	return &storeIndex{opened: ix, complete: map[uint32]bool{}}
}

func (x *storeIndex) now() index.Index {
	queuethread.Blocks("a look-up in the index")
	if p := x.anew.Load(); p != nil {
		return *p
	}
	return x.opened
}

func (x *storeIndex) Get(h *merkle.Hash) (segment.Location, bool) {
	p, ok := x.now().Get((*[32]byte)(h))
	return segment.At(p.Segment, p.Block), ok
}

// put enters objects that were stored just now.
func (x *storeIndex) put(entries []index.Entry) error {
	x.putMu.Lock()
	defer x.putMu.Unlock()
	return x.now().Put(entries)
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

// broken reports whether the index answers nothing and takes nothing any more, and can be replaced,
// which is done once.
func (x *storeIndex) broken() (renewable, bool) {
	if x.anew.Load() != nil {
		return nil, false
	}
	r, ok := x.opened.(renewable)
	return r, ok && r.Broken()
}

// use replaces a broken index by an empty one.
func (x *storeIndex) use(ix index.Index) {
	x.putMu.Lock()
	defer x.putMu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.anew.Store(&ix)
	x.missed++
	clear(x.complete)
}

// entered notes that the index has all the objects of a new segment, which has none, or of a sealed
// one that is marked.
func (x *storeIndex) entered(id uint32) {
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
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.complete, id)
}

// bytes are those of both indexes: the files of the first stay until its process ends.
func (x *storeIndex) bytes() int64 {
	n := x.opened.Bytes()
	if p := x.anew.Load(); p != nil {
		n += (*p).Bytes()
	}
	return n
}

func (x *storeIndex) close() error {
	var err error
	if p := x.anew.Load(); p != nil {
		err = (*p).Close()
	}
	if oerr := x.opened.Close(); err == nil {
		err = oerr
	}
	return err
}
