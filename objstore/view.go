package objstore

import (
	"context"
	"fmt"

	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/merkle"
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
	base   *base                           // once settled
	closed bool
}

// OpenSnapshot opens a snapshot for reading, settled or not.
func (s *Store) OpenSnapshot(volume, snap string) (*View, error) {
	w := &View{s: s}
	root, err := s.catalog.view(w, volume, snap)
	if err != nil {
		return nil, err
	}
	if root.IsZero() {
		return w, nil
	}
	return s.openRoot(root, w.size, w.of)
}

// view returns the root of a snapshot that has settled. A snapshot that has not is read through its
// volume: view sets that in w, and registers w, so that settling can give it a base of its own.
func (c *catalog) view(w *View, volume, snap string) (root merkle.Hash, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, sn, err := c.snapshot(volume, snap)
	if err != nil {
		return root, err
	}
	w.size, w.of = sn.Size, v
	if sn.Settled {
		return sn.Root, nil
	}
	if err := v.damageError(); err != nil {
		return root, err
	}
	w.v, w.gen = v, sn.Gen
	c.views[w] = struct{}{}
	return root, nil
}

// openRoot opens a root for reading; of is the volume that it belongs to, or nil.
func (s *Store) openRoot(id merkle.Hash, size int64, of *volume) (*View, error) {
	r, err := s.objects.Root(id, size)
	if err != nil {
		return nil, err
	}
	w := &View{s: s, size: r.Size, base: newBase(s, *r), of: of}
	s.catalog.addView(w)
	return w, nil
}

func (c *catalog) addView(w *View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.views[w] = struct{}{}
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
	if w.base == nil {
		return ""
	}
	return w.base.id.String()
}

// settled hands the view a base of its own, before the volume's base moves past the snapshot.
func (w *View) settled(b *base) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.base = b
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
		return w.base.plan(p, from, to)
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
	p.pin = v.pin
	p.pin.n.Add(1)
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
		return w.s.load(ctx, &w.mu, func() *base { return w.base }, off, int64(length))
	}
	return w.v.Load(ctx, off, length)
}

// Release implements [Image].
func (w *View) Release(p *Plan) { p.release() }

// ReadAt implements [Image].
func (w *View) ReadAt(p []byte, off int64) (int, error) { return readAt(w, p, off) }

func (w *View) emptyUntil(off int64) (int64, error) {
	root, end := w.untouched(off)
	return w.s.emptyBelow(&root, off, end)
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
	w.s.catalog.removeView(w)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("view: %w", ErrClosed)
	}
	w.closed = true
	if w.base != nil {
		w.base.drop()
	}
	if w.v != nil {
		w.v.mayHelp() // the volume's settling may have waited for this reader
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
