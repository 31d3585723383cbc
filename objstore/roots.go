package objstore

import (
	"fmt"
	"maps"
	"slices"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
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
	w := &View{s: s, root: h, pin: segment.NewPin()}
	if err := s.catalog.viewRoot(w); err != nil {
		return nil, err
	}
	return w.open()
}

// viewRoot registers a view of a root, so that the root counts as in use from the moment at which
// it was looked up.
func (c *catalog) viewRoot(w *View) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	u, err := c.rootLocked(w.root)
	if err != nil {
		return err
	}
	w.size, w.of = u.size, u.verified
	c.views[w] = struct{}{}
	return nil
}

// foundRoot is what is known of a root without the lock.
type foundRoot struct {
	size, logical int64
	verified      *volume // one with verified reads that has the root; nil: none
}

// root finds a root that something refers to.
func (c *catalog) root(h merkle.Hash) (foundRoot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rootLocked(h)
}

// rootLocked is root.
// REQUIRES: mu is held.
func (c *catalog) rootLocked(h merkle.Hash) (foundRoot, error) {
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
