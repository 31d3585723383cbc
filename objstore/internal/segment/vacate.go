package segment

import "varve/objstore/internal/merkle"

// Vacate empties the object list, in memory, of a sealed segment whose objects were copied
// elsewhere or are dead: from then on look-ups do not find the segment's objects. moved reports
// whether the object at a block was copied. If live reports that an object that was not copied is
// alive, Vacate changes nothing and returns these objects, and the caller copies them and tries
// again.
//
// live is called with g's lock held, and must not block. A settling that wants to refer to an
// object first makes it alive and then looks it up: either live returns true here, or the look-up
// misses.
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
		g.version++
	}
	return left, true
}

// Vacated reports whether the segment was vacated, so that its file can be unlinked.
func (g *File) Vacated() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.vacated
}
