package objstore

import (
	"slices"

	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/segment"
)

// segmentPool keeps the append segments of volumes at rest for the next volume that writes. If each
// were sealed, there would be as many files as volumes are opened; if each stayed with its volume,
// as many descriptors as there are volumes.
//
// A segment in the pool belongs to no volume: everything that was handed out of it has settled, its
// room has been freed, and it is in no volume's list of segments to sync. It holds objects,
// which stay where they are whichever volume appends next. So a segment taken from the pool has
// unsettled writes of one volume at a time, as every append segment has.
type segmentPool struct {
	mu   lockorder.Mutex[lockorder.Memory]
	segs []*segment.File
}

// put adds a segment with room for a request, which holds objects and no unsettled writes.
func (p *segmentPool) put(g *segment.File) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.segs = append(p.segs, g)
}

// remove takes a segment out, and reports whether it was in the pool.
func (p *segmentPool) remove(g *segment.File) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.segs)
	p.segs = slices.DeleteFunc(p.segs, func(h *segment.File) bool { return h == g })
	return len(p.segs) < n
}

// take returns a segment with room for a request, or nil if there is none. It never blocks on I/O.
func (p *segmentPool) take() *segment.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.segs)
	if n == 0 {
		return nil
	}
	g := p.segs[n-1]
	p.segs = p.segs[:n-1]
	return g
}
