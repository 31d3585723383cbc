package index

import (
	"sync"
	"sync/atomic"
)

// waiting are entries for which the disk has no space. The zero value is ready.
type waiting struct {
	n         atomic.Int64 // len(locations), for a look without the lock
	mu        sync.RWMutex
	locations map[[32]byte]Location
}

func (w *waiting) get(hash *[32]byte) (Location, bool) {
	if w.n.Load() == 0 {
		return Location{}, false
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	p, ok := w.locations[*hash]
	return p, ok
}

// add takes all entries, or, if that would make them more than limit, none.
func (w *waiting) add(entries []Entry, limit int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.locations)+len(entries) > limit {
		return false
	}
	if w.locations == nil {
		w.locations = make(map[[32]byte]Location, len(entries))
	}
	for _, e := range entries {
		w.locations[e.Hash] = e.Location
	}
	w.n.Store(int64(len(w.locations)))
	return true
}

func (w *waiting) all() []Entry {
	if w.n.Load() == 0 {
		return nil
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	entries := make([]Entry, 0, len(w.locations))
	for h, p := range w.locations {
		entries = append(entries, Entry{Hash: h, Location: p})
	}
	return entries
}

// done drops entries that are on the disk now, unless another location has come for one meanwhile.
func (w *waiting) done(entries []Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range entries {
		if w.locations[e.Hash] == e.Location {
			delete(w.locations, e.Hash)
		}
	}
	w.n.Store(int64(len(w.locations)))
}

// drop drops entries by their hashes.
func (w *waiting) drop(hashes [][32]byte) {
	if w.n.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range hashes {
		delete(w.locations, hashes[i])
	}
	w.n.Store(int64(len(w.locations)))
}
