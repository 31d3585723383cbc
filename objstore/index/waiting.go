package index

import (
	"sync"
	"sync/atomic"
)

// waiting are entries that found no room on the disk. The zero value is ready.
type waiting struct {
	n      atomic.Int64 // len(places), for a look without the lock
	mu     sync.RWMutex
	places map[[32]byte]Place
}

func (w *waiting) get(hash *[32]byte) (Place, bool) {
	if w.n.Load() == 0 {
		return Place{}, false
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	p, ok := w.places[*hash]
	return p, ok
}

// add takes all entries, or, if that would make them more than limit, none.
func (w *waiting) add(entries []Entry, limit int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.places)+len(entries) > limit {
		return false
	}
	if w.places == nil {
		w.places = make(map[[32]byte]Place, len(entries))
	}
	for _, e := range entries {
		w.places[e.Hash] = e.Place
	}
	w.n.Store(int64(len(w.places)))
	return true
}

func (w *waiting) all() []Entry {
	if w.n.Load() == 0 {
		return nil
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	entries := make([]Entry, 0, len(w.places))
	for h, p := range w.places {
		entries = append(entries, Entry{Hash: h, Place: p})
	}
	return entries
}

// done drops entries that are on the disk now, unless another place has come for one meanwhile.
func (w *waiting) done(entries []Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range entries {
		if w.places[e.Hash] == e.Place {
			delete(w.places, e.Hash)
		}
	}
	w.n.Store(int64(len(w.places)))
}
