package object

import (
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// maxAbsent bounds how many objects are remembered as absent: some 100 bytes each.
const maxAbsent = 64 << 10

// absentees are objects that no segment has, so that they are not searched for again and again.
// They are forgotten when the repair generation grows, as a search may succeed then. An object that
// is stored is removed.
type absentees struct {
	mu         lockorder.Mutex[lockorder.Memory]
	generation int64                              // of repairs, when the first of them was searched for
	stored     int64                              // how often objects were taken out
	hashes     *simplelru.LRU[merkle.Hash, error] // and the damage of a segment that may have it, or nil
}

// begin returns a count to pass to add, as objects may be stored while they are searched for.
func (a *absentees) begin(generation int64) (stored int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hashes == nil || a.generation != generation {
		a.hashes, _ = simplelru.NewLRU[merkle.Hash, error](maxAbsent, nil) // fails for size 0 only
		a.generation = generation
		a.stored++
	}
	return a.stored
}

func (a *absentees) has(h merkle.Hash) (damage error, absent bool) { //nolint:revive // the error is a value here
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hashes.Get(h)
}

// add records objects that were searched for in vain since begin returned stored.
func (a *absentees) add(hashes map[merkle.Hash]bool, damage error, stored int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stored != stored {
		return // one of them may have been stored meanwhile
	}
	for h := range hashes {
		a.hashes.Add(h, damage)
	}
}

// remove removes objects that were stored. It reports whether any of them was searched for: a
// search that missed it may be repeated.
func (a *absentees) remove(objs []segment.Object) (missed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stored++
	if a.hashes == nil {
		return false
	}
	for i := range objs {
		missed = a.hashes.Remove(objs[i].Hash) || missed
	}
	return missed
}
