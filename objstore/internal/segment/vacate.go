package segment

import "varve/objstore/internal/merkle"

// Vacate empties the object list of a sealed segment in memory, whose objects lie elsewhere by now
// or are dead: from here on nobody finds anything in the segment. moved says of a block whether its
// object was copied. An object that was not, and that live says is alive, is returned; then nothing
// has changed, and the caller copies what is returned and tries again.
//
// live is called with g's lock held, and must not block. A settling that wants to refer to an object
// makes it alive first and looks it up then: either live says so here, or the look-up misses.
//
// On disk nothing changes: until the file is unlinked, an opening finds the segment as it was.
// ok is false if the segment is not sealed, or its list cannot be relied on.
func (g *File) Vacate(objs []Object, moved func(block uint32) bool, live func(*merkle.Hash) bool) (left []Object, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.footer == 0 || g.damaged != nil {
		return nil, false
	}
	for i := range objs {
		if !moved(objs[i].Block) && live(&objs[i].Hash) {
			left = append(left, objs[i])
		}
	}
	if len(left) == 0 {
		g.objects = map[uint32]Object{}
		g.footer, g.chunks, g.others, g.vacated = 0, 0, 0, true
	}
	return left, true
}

// Vacated reports whether the segment's objects lie elsewhere, so that its file can go.
func (g *File) Vacated() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.vacated
}
