package objstore

import (
	"context"
	"log/slog"
	"sync/atomic"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/segment"
)

// leafCache loads leaves into the bases of volumes and views, and bounds how many leaves all of
// them have in memory. Each leaf is kept by its base, under the lock of the base's owner; the cache
// has no lock of its own, and holds no owner's lock over I/O.
type leafCache struct {
	objects  *object.Reader
	segments *segment.Table
	lookups  *segment.Pins    // held while a tree is walked
	images   func() []sweeper // all images whose leaves are in memory
	limit    int64            // leaves
	log      *slog.Logger
	life     context.Context //nolint:containedctx // of the store, for reads without a context of their own; ended by Close

	loaded atomic.Int64 // leaves in memory, of all images
}

// sweeper is an image that drops leaves.
type sweeper interface {
	// sweep drops up to n leaves that were not used since the last sweep.
	sweep(n int64)
}

// locker is the lock of a base's owner.
type locker interface {
	Lock()
	Unlock()
}

// load brings the leaves of a range into memory. current returns the owner's base, and is called
// under the owner's lock.
func (c *leafCache) load(ctx context.Context, mu locker, current func() *base, off, length int64) error {
	for {
		loaded, err := c.loadNext(ctx, mu, current, off, length)
		if err != nil || loaded {
			return err
		}
		c.trim()
	}
}

// loadNext loads one leaf of a range. loaded reports that there was none to load.
func (c *leafCache) loadNext(ctx context.Context, mu locker, current func() *base, off, length int64) (loaded bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	defer c.lookups.Hold().Release() // before the root is looked at: its nodes are not collected until they are read
	mu.Lock()
	b := current()
	i, missing := b.missing(off, length)
	root, version := b.root, b.version
	mu.Unlock()
	if !missing {
		return true, nil
	}
	hashes, err := c.hashes(ctx, &root, i)
	if err != nil {
		return false, err
	}
	l, err := c.resolve(ctx, hashes)
	if err != nil {
		return false, err
	}
	mu.Lock()
	defer mu.Unlock()
	if b == current() && b.version == version {
		b.setLeaf(i, l)
	}
	return false, nil
}

// hashes walks from the root to leaf i; nil for a leaf of zeroes.
func (c *leafCache) hashes(ctx context.Context, root *merkle.Root, i int64) (*merkle.Node, error) {
	h := root.Top
	for level := root.Depth; ; level-- {
		if h.IsZero() {
			return nil, nil
		}
		n, err := c.objects.Node(ctx, h, level)
		if err != nil || level == 1 {
			return n, err
		}
		h = n[i/merkle.Span(level-2)%merkle.FanOut]
	}
}

// resolve finds the locations of a leaf's chunks.
func (c *leafCache) resolve(ctx context.Context, n *merkle.Node) (*leaf, error) {
	if n == nil {
		return emptyLeaf, nil
	}
	l := &leaf{used: true, repairGen: c.objects.Quarantine.Generation()}
	found, damage, err := c.objects.LocateAll(ctx, n[:], merkle.KindChunk)
	if err != nil {
		return nil, err
	}
	lost := 0
	for i := range n {
		at, ok := found[n[i]]
		switch {
		case n[i].IsZero():
		case ok:
			l.locations[i] = at.Location
		default:
			// A read of this chunk is an error; its neighbours can be read, and it can be
			// overwritten.
			l.locations[i] = segment.Lost
			if lost++; lost == 1 {
				err = object.Missing(&n[i], merkle.KindChunk, damage)
			}
		}
	}
	if lost > 0 {
		c.log.Error("chunks are lost", "chunks", lost, "first", err)
	}
	return l, nil
}

// trim keeps the leaves of all images within the limit.
func (c *leafCache) trim() {
	for round := 0; c.loaded.Load() > c.limit && round < 2; round++ {
		for _, im := range c.images() {
			if over := c.loaded.Load() - c.limit*7/8; over > 0 {
				im.sweep(over)
			}
		}
	}
}
