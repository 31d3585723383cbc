package objstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"varve/objstore/internal/merkle"
)

// rootSource yields roots that something refers to. It is called with both locks of the catalog
// held, so that the roots of all sources are those of one moment, and must not block. Whatever
// names objects and is no record of refs has a source of its own.
type rootSource func(yield func(id merkle.Hash, size int64))

// rootOf is the root of an image.
type rootOf struct {
	id   merkle.Hash
	size int64 // of the image, bytes
}

// roots captures the roots of all sources, each once.
func (c *collector) roots(ctx context.Context) (all []rootOf, err error) {
	err = c.s.catalog.frozen(ctx, func() { all = c.allRoots() })
	return all, err
}

// allRoots returns the roots of all sources, each once.
// REQUIRES: both locks of the catalog are held.
func (c *collector) allRoots() (all []rootOf) {
	seen := map[merkle.Hash]bool{}
	for _, source := range c.sources {
		source(func(id merkle.Hash, size int64) {
			if !seen[id] {
				seen[id] = true
				all = append(all, rootOf{id, size})
			}
		})
	}
	return all
}

// holders says in words which volumes, snapshots and past states have one of these roots.
func (c *catalog) holders(roots map[merkle.Hash]bool) string {
	var names []string
	for _, im := range c.imageRoots(func([]image) {}) {
		if !roots[im.root] {
			continue
		}
		name := im.volume
		if im.snap != "" {
			name += "@" + im.snap
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	const most = 8
	switch n := len(names); {
	case n == 0:
		return "what is deleted and still open"
	case n > most:
		return fmt.Sprintf("%s and %d others", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}

// frozen calls f with both locks held: no record has been decided that has not taken effect. Nor is
// there one that was answered with an error and would take effect after a crash.
func (c *catalog) frozen(ctx context.Context, f func()) error {
	if err := c.logMu.LockContext(ctx); err != nil {
		return err
	}
	defer c.logMu.Unlock()
	if err := c.takeBackLocked(); err != nil {
		return fmt.Errorf("what names there are is not certain: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	return nil
}

// namedRoots yields the roots of volumes and of settled snapshots.
// REQUIRES: mu is held.
func (c *catalog) namedRoots(yield func(merkle.Hash, int64)) {
	for _, ref := range c.refs.ByID {
		if !ref.Root.IsZero() {
			yield(ref.Root, ref.Size)
		}
		for _, sn := range ref.Order {
			if sn.Settled {
				yield(sn.Root, sn.Size)
			}
		}
	}
}

// openRoots yields what is open: the bases of volumes and views, and the roots of snapshots that
// have no name yet.
// REQUIRES: mu is held.
func (c *catalog) openRoots(yield func(merkle.Hash, int64)) {
	for _, v := range c.volumes {
		v.mu.Lock()
		yield(v.base.id, v.base.root.Size)
		for _, n := range v.namings {
			if n.settled {
				yield(n.root, n.size)
			}
		}
		v.mu.Unlock()
	}
	for w := range c.views {
		w.mu.Lock()
		root, size := w.root, w.size
		w.mu.Unlock()
		if !root.IsZero() {
			yield(root, size)
		}
	}
}

// roots yields the bases of deleted volumes that can still make plans.
// REQUIRES: catalog.mu is held.
func (r *readers) roots(yield func(merkle.Hash, int64)) {
	r.mu.Lock()
	leaving := slices.Collect(maps.Keys(r.leaving))
	r.mu.Unlock()
	for _, v := range leaving {
		v.mu.Lock()
		yield(v.base.id, v.base.root.Size)
		v.mu.Unlock()
	}
}

// heldRoots are roots that are walked without a view of them.
type heldRoots struct{ all []rootOf }

// hold keeps roots from being collected until release is called.
// REQUIRES: catalog.mu is held, and has been since the roots were found to be named.
func (c *collector) hold(all []rootOf) (release func()) {
	h := &heldRoots{all}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[h] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.held, h)
	}
}

// heldRoots yields what is held.
func (c *collector) heldRoots(yield func(merkle.Hash, int64)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h := range c.held {
		for _, r := range h.all {
			yield(r.id, r.size)
		}
	}
}
