package objstore

import (
	"fmt"
	"maps"
	"slices"

	"varve/objstore/internal/merkle"
)

// rootIndex finds by its hash what a settled root belongs to: the heads of volumes, and settled snapshots. It is part of
// refs, and guarded as they are. However many snapshots there are, a look-up visits one entry.
type rootIndex map[merkle.Hash]*rootUse

// rootUse is a root that something refers to.
type rootUse struct {
	size    int64 // of the image, bytes
	logical int64 // bytes that are not holes
	holders []rootHolder
}

// rootHolder is a volume that refers to a root, with how many of its names: itself and its snapshots.
type rootHolder struct {
	ref   *volumeRef
	names int
}

func (x rootIndex) add(root merkle.Hash, ref *volumeRef, logical int64) {
	if ref.scratch() {
		return // what is thrown away is not offered by its root
	}
	u := x[root]
	if u == nil {
		u = &rootUse{size: ref.size}
		x[root] = u
	}
	u.logical = logical
	if i := slices.IndexFunc(u.holders, func(h rootHolder) bool { return h.ref == ref }); i >= 0 {
		u.holders[i].names++
		return
	}
	u.holders = append(u.holders, rootHolder{ref, 1})
}

func (x rootIndex) remove(root merkle.Hash, ref *volumeRef) {
	u := x[root]
	if u == nil {
		return
	}
	i := slices.IndexFunc(u.holders, func(h rootHolder) bool { return h.ref == ref })
	if i < 0 {
		return
	}
	if u.holders[i].names--; u.holders[i].names == 0 {
		u.holders = slices.Delete(u.holders, i, i+1)
	}
	if len(u.holders) == 0 {
		delete(x, root)
	}
}

// RootInfo describes a settled root that a volume or a snapshot refers to; ErrNotFound if none does.
func (s *Store) RootInfo(id string) (RootInfo, error) {
	h, err := merkle.ParseHash(id)
	if err != nil {
		return RootInfo{}, err
	}
	u, err := s.catalog.root(h)
	if err != nil {
		return RootInfo{}, err
	}
	return RootInfo{Root: h.String(), Size: u.size, Logical: u.logical}, nil
}

// Roots lists the settled roots that snapshots and volumes refer to, hex, each once, sorted.
func (s *Store) Roots() []string {
	all := s.catalog.roots()
	out := make([]string, len(all))
	for i, h := range all {
		out[i] = h.String()
	}
	slices.Sort(out)
	return out
}

func (c *catalog) roots() []merkle.Hash {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.refs.roots))
}

// OpenRoot opens a settled root by its ID in hex; ErrNotFound unless a volume or snapshot refers to it.
func (s *Store) OpenRoot(id string) (*View, error) {
	h, err := merkle.ParseHash(id)
	if err != nil {
		return nil, err
	}
	u, err := s.catalog.root(h)
	if err != nil {
		return nil, err
	}
	return s.openRoot(h, u.size, u.verified)
}

// foundRoot is what is known of a root without the lock.
type foundRoot struct {
	size, logical int64
	verified      *volume // one that wants its chunks checked; nil: none does
}

// root finds a root that something refers to.
func (c *catalog) root(h merkle.Hash) (foundRoot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.refs.roots[h]
	if u == nil {
		return foundRoot{}, fmt.Errorf("root %v: %w", h, ErrNotFound)
	}
	out := foundRoot{size: u.size, logical: u.logical}
	for _, holder := range u.holders {
		if holder.ref.verify {
			out.verified = c.volumes[holder.ref.id]
		}
	}
	return out, nil
}
