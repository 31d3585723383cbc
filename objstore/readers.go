package objstore

import (
	"context"
	"maps"
	"slices"

	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/segment"
)

// readers are all goroutines that may hold a location in a segment and read the bytes there later.
// Before objects are moved, or segments punched or unlinked, their locations are made impossible to
// find; then wait waits for the goroutines that have found them:
//
//	reader                                     holds the pin of
//	a plan of a volume                         the volume, under volume.mu
//	a plan of a view                           the view, under View.mu; of a snapshot that has not settled, the volume
//	a look-up by hash, a tree node, a root     lookups
//	a walk from a base's root to a leaf        lookups, from before the root is looked at
//	settling: the chunks of a run, an object   lookups
//	check: an object; the indexer: a segment   lookups
//
// Only leaves in memory keep locations for longer.
type readers struct {
	catalog *catalog
	lookups segment.Pins

	mu      lockorder.Mutex[lockorder.Memory]
	leaving map[*volume]struct{} // deleted volumes that can still make plans
	gone    []*segment.Pin       // of volumes and views that make no plans any more, with plans that are held
}

func newReaders(c *catalog) *readers {
	return &readers{catalog: c, leaving: map[*volume]struct{}{}}
}

// leave notes that the catalog drops a volume, which can make plans until left is called.
// REQUIRES: catalog.mu is held.
func (r *readers) leave(v *volume) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaving[v] = struct{}{}
}

// left takes over the pin of a volume that makes no plans any more, or of a view (v is nil), from
// its owner, which has replaced it.
func (r *readers) left(v *volume, p *segment.Pin) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.leaving, v)
	r.gone = append(slices.DeleteFunc(r.gone, isDone), p)
}

func isDone(p *segment.Pin) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// wait replaces every pin of the store, and returns when all goroutines that may hold a location
// from before the call have ended. It blocks for as long as a plan is held.
// REQUIRES: no lock is held, since a reader may wait for it.
func (r *readers) wait(ctx context.Context) error {
	for _, p := range r.replace() {
		select {
		case <-p.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// replace replaces every pin, and returns the old ones.
func (r *readers) replace() []*segment.Pin {
	volumes, views := r.catalog.planners()
	r.mu.Lock()
	r.gone = slices.DeleteFunc(r.gone, isDone)
	old := slices.Clone(r.gone)
	volumes = slices.AppendSeq(volumes, maps.Keys(r.leaving))
	r.mu.Unlock()
	for _, v := range volumes {
		v.mu.Lock()
		old = append(old, v.replacePin())
		v.mu.Unlock()
	}
	for _, w := range views {
		w.mu.Lock()
		old = append(old, w.replacePin())
		w.mu.Unlock()
	}
	return append(old, r.lookups.Replace())
}

// planners returns all that make plans: volumes and open views.
func (c *catalog) planners() ([]*volume, []*View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.volumes)), slices.Collect(maps.Keys(c.views))
}

// replacePin makes a new pin current and returns the old one, which is done when every plan made so
// far is released.
// REQUIRES: v.mu is held.
func (v *volume) replacePin() *segment.Pin {
	old := v.pin
	v.pin = old.Replace()
	return old
}

// replacePin is that of a volume.
// REQUIRES: w.mu is held.
func (w *View) replacePin() *segment.Pin {
	old := w.pin
	w.pin = old.Replace()
	return old
}
