package objstore

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/edges"
	"varve/objstore/internal/merkle"
)

// What past states take is what would be free if all of them were dropped: objects that no volume
// and no snapshot refers to. It is a trial removal, so its cost is that of reading the tree nodes
// that only past states have: 8 KiB for 256 chunks. Only a caller that asks pays for it, and each
// result is remembered until the graph or the states change.

// pastUse is what some past states have for themselves.
type pastUse struct {
	roots []merkle.Hash // whose removal was tried, sorted
	freed freedBytes
}

// freedBytes is what a trial removal would free.
type freedBytes struct {
	edges.Bytes
	exact bool
}

// names returns the number of past states that each root has, by volume.
func (t *timeline) names() map[uuid.UUID]map[merkle.Hash]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[uuid.UUID]map[merkle.Hash]int, len(t.volumes))
	for id, list := range t.volumes {
		out[id] = make(map[merkle.Hash]int, len(list))
		for _, p := range list {
			out[id][p.snap.Root]++
		}
	}
	return out
}

// ofHistory returns what only the past states have that are named in past: those of the volume id,
// or all that there are, with uuid.Nil. States that came after the counting are left out.
// REQUIRES: mu is held, and the counts are up to date.
func (a *accounting) ofHistory(ctx context.Context, id uuid.UUID, past map[merkle.Hash]int) (freedBytes, error) {
	var hashes []merkle.Hash
	for h, n := range past {
		if a.counted[h] != nil && n >= a.names[h] { // it has no other name
			hashes = append(hashes, h)
		}
	}
	slices.SortFunc(hashes, func(a, b merkle.Hash) int { return bytes.Compare(a[:], b[:]) })
	if known, ok := a.history[id]; ok && slices.Equal(known.roots, hashes) {
		return known.freed, nil
	}
	roots := make([]*merkle.Root, len(hashes))
	for i, h := range hashes {
		roots[i] = a.counted[h]
	}
	freed, err := a.tryRemoval(ctx, roots)
	if err != nil {
		return freedBytes{}, err
	}
	a.history[id] = pastUse{hashes, freed}
	return freed, nil
}

// tryRemoval returns what removing some counted roots together would free.
// REQUIRES: mu is held, and the counts are up to date.
func (a *accounting) tryRemoval(ctx context.Context, roots []*merkle.Root) (f freedBytes, err error) {
	f.Bytes, f.exact, err = a.graph.Freed(ctx, &pacedNodes{a: a, since: time.Now()}, roots)
	return f, err
}

// addHistory adds to live what of it only past states have.
// REQUIRES: mu is held, and the counts are up to date.
func (a *accounting) addHistory(ctx context.Context, live *liveBytes) error {
	all := map[merkle.Hash]int{}
	for _, past := range a.catalog.past.names() {
		for h, n := range past {
			all[h] += n
		}
	}
	freed, err := a.ofHistory(ctx, uuid.Nil, all)
	if err == nil {
		live.history = &freed
	}
	return err
}
