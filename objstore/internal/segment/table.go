package segment

import (
	"slices"
	"sync/atomic"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/lockorder"
)

// Table holds the open segments of a store by ID. Get takes no lock, as it is on the path of every
// read; the other methods exclude one another. The zero Table is empty.
type Table struct {
	mu    lockorder.Mutex[lockorder.Memory]
	slots atomic.Pointer[[]atomic.Pointer[File]] // by ID; replaced by a longer one under mu
}

// Get returns a segment, or nil if the table does not have it.
func (t *Table) Get(id uint32) *File {
	if s := t.slots.Load(); s != nil && int(id) < len(*s) {
		return (*s)[id].Load()
	}
	return nil
}

// Add enters a segment.
func (t *Table) Add(g *File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.slots.Load()
	if old == nil || int(g.ID) >= len(*old) {
		grown := make([]atomic.Pointer[File], disk.RoundUp(int64(g.ID)+1, 1024)*5/4)
		if old != nil {
			for i := range *old {
				grown[i].Store((*old)[i].Load())
			}
		}
		t.slots.Store(&grown)
		old = &grown
	}
	(*old)[g.ID].Store(g)
}

// Remove takes out a segment that was added. It stays open.
func (t *Table) Remove(id uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	(*t.slots.Load())[id].Store(nil)
}

// All returns the segments in order of ID.
func (t *Table) All() []*File {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*File
	if s := t.slots.Load(); s != nil {
		for i := range *s {
			if g := (*s)[i].Load(); g != nil {
				out = append(out, g)
			}
		}
	}
	return out
}

// Damaged returns the segments whose object list cannot be relied on, in order of ID.
func (t *Table) Damaged() []*File {
	return slices.DeleteFunc(t.All(), func(g *File) bool { return !g.Damaged() })
}
