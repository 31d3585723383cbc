package objstore

import (
	"fmt"
	"maps"
	"slices"

	"varve/objstore/internal/merkle"
)

// RootInfo describes a settled root that a volume or a snapshot refers to; ErrNotFound if none
// does.
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
	return slices.Collect(maps.Keys(c.refs.Roots))
}

// OpenRoot opens a settled root by its ID in hex; ErrNotFound unless a volume or snapshot refers to
// it.
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
	u := c.refs.Roots[h]
	if u == nil {
		return foundRoot{}, fmt.Errorf("root %v: %w", h, ErrNotFound)
	}
	out := foundRoot{size: u.Size, logical: u.Logical}
	for _, holder := range u.Holders {
		if holder.Volume.Verify {
			out.verified = c.volumes[holder.Volume.ID]
		}
	}
	return out, nil
}
