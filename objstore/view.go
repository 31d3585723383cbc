package objstore

import (
	"context"
	"fmt"

	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// View is a snapshot or a root held open for reading. Safe for concurrent use.
type View struct {
	s    *Store
	size int64
	of   *volume // decides whether chunks are verified; nil: they are not

	// A snapshot that has not settled is read through its volume, by the layers up to gen.
	v   *volume
	gen uint64

	mu     lockorder.Mutex[lockorder.View] // taken before the volume's
	root   merkle.Hash                     // what is read; zero until it is known, which is when the snapshot has settled
	base   *base                           // of the root; nil: there is none yet, or the root object is still being read
	pin    *segment.Pin                    // of plans of the base
	closed bool
}

// OpenSnapshot opens a snapshot for reading, settled or not.
func (s *Store) OpenSnapshot(volume, snap string) (*View, error) {
	w := &View{s: s, pin: segment.NewPin()}
	if err := s.catalog.view(w, volume, snap); err != nil {
		return nil, err
	}
	return w.open()
}

// view registers a view of a snapshot, so that its root, or the volume through which it is read
// until it has settled, counts as in use from the moment at which the name was looked up.
func (c *catalog) view(w *View, volume, snap string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, sn, err := c.snapshot(volume, snap)
	if err != nil {
		return err
	}
	w.size, w.of = sn.Size, v
	if sn.Settled {
		w.root = sn.Root
	} else if err := v.damageError(); err != nil {
		return err
	} else {
		w.v, w.gen = v, sn.Gen // settling sets a base of its own
	}
	c.views[w] = struct{}{}
	return nil
}

// open reads the root object of a registered view that has a root. After an error the view is gone.
func (w *View) open() (*View, error) {
	if w.v != nil {
		return w, nil
	}
	r, err := w.s.objects.Root(w.s.ctx, w.root, w.size)
	if err != nil {
		w.s.catalog.removeView(w)
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.size, w.base = r.Size, newBase(w.s.leaves, *r)
	return w, nil
}

func (c *catalog) removeView(w *View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.views, w)
}

// Size in bytes.
func (w *View) Size() int64 { return w.size }

// Root is the Merkle root in hex; empty as long as the snapshot has not settled.
func (w *View) Root() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.root.IsZero() {
		return ""
	}
	return w.root.String()
}

// settled hands the view a base of its own, before the volume's base moves past the snapshot.
func (w *View) settled(b *base) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.base, w.root = b, b.id
	}
}

// Plan implements [Image].
func (w *View) Plan(off int64, length int, p *Plan) error {
	if off < 0 || length <= 0 || length > MaxRequest || off > w.size-int64(length) || (off|int64(length))%SectorSize != 0 {
		return fmt.Errorf("range of %d bytes at %d: %w: want whole sectors within %d bytes", length, off, ErrInvalid, w.size)
	}
	p.Pieces = p.Pieces[:0]
	from := uint64(off) / SectorSize
	to := from + uint64(length)/SectorSize
	if err := w.plan(p, from, to); err != nil {
		p.Pieces = p.Pieces[:0]
		return err
	}
	p.resolve()
	return nil
}

func (w *View) plan(p *Plan, from, to uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("view: %w", ErrClosed)
	}
	off := int64(from) * SectorSize
	if w.base != nil {
		p.verifier = w.of.verifierFor(&w.base.root, off)
		if err := w.base.plan(p, from, to); err != nil {
			return err
		}
		p.pin = w.pin.Hold()
		return nil
	}
	v := w.v
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.openError(); err != nil {
		return err
	}
	if err := planLayers(v.upTo(w.gen), v.base, p, from, to); err != nil {
		return err
	}
	p.verifier = v.verifierFor(&v.base.root, off)
	p.pin = v.pin.Hold()
	return nil
}

// upTo returns the layers that make up the volume as it was when gen was frozen.
// REQUIRES: v.mu is held.
func (v *volume) upTo(gen uint64) []*layer {
	n := len(v.layers)
	for n > 0 && v.layers[n-1].gen > gen {
		n--
	}
	return v.layers[:n]
}

// Load implements [Image].
func (w *View) Load(ctx context.Context, off int64, length int) error {
	w.mu.Lock()
	settled := w.base != nil
	w.mu.Unlock()
	if settled {
		return w.s.leaves.load(ctx, &w.mu, func() *base { return w.base }, off, int64(length))
	}
	return w.v.Load(ctx, off, length)
}

// Release implements [Image].
func (w *View) Release(p *Plan) { p.release() }

// ReadAt implements [Image].
func (w *View) ReadAt(p []byte, off int64) (int, error) {
	return readAt(context.Background(), w, p, off)
}

// ReadContext implements [Image].
func (w *View) ReadContext(ctx context.Context, p []byte, off int64) (int, error) {
	return readAt(ctx, w, p, off)
}

func (w *View) emptyUntil(ctx context.Context, off int64) (int64, error) {
	defer w.s.readers.lookups.Hold().Release() // before the root is looked at
	root, end := w.untouched(off)
	return w.s.emptyBelow(ctx, &root, off, end)
}

// untouched returns the tree of the view, and the end of the range from off on that no layer over
// the tree touches.
func (w *View) untouched(off int64) (root merkle.Root, end int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.base != nil:
		return w.base.root, w.base.root.Size
	case w.closed:
		return merkle.Root{}, off
	}
	w.v.mu.Lock()
	defer w.v.mu.Unlock()
	root = w.v.base.root
	return root, untouched(w.v.upTo(w.gen), off, root.Size)
}

// Extent implements [Image].
func (w *View) Extent(ctx context.Context, off int64) (hole bool, length int64, err error) {
	return extentAt(ctx, w, off)
}

// Close closes the view. No plan of it may be in use.
func (w *View) Close() error {
	if err := w.end(); err != nil {
		return err
	}
	w.s.catalog.removeView(w) // behind end: no moment at which a plan counts on a pin that nobody knows
	if w.v != nil {
		w.v.mayHelp() // the volume's settling may have waited for this reader
	}
	return nil
}

// end takes the view out of service.
func (w *View) end() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("view: %w", ErrClosed)
	}
	w.closed = true
	w.s.readers.left(nil, w.replacePin())
	if w.base != nil {
		w.base.drop()
	}
	return nil
}

func (w *View) sweep(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.base != nil && !w.closed {
		w.base.sweep(n)
	}
}
