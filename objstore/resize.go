package objstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/extent"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
)

// A resize changes the size of a volume. The size is in the root, and decides how deep the tree is:
// a resize makes the tree and the root of the new size durable, and then writes one record,
//
//	resize {gen, size, root, logical}
//
// which decides. Until it is durable the volume is unchanged; layers do not change at all.
//
// A volume grows while it is in use: new nodes above the top are all that is written, and layers
// that have not settled lie within the new size too. It shrinks only while it is not open, and once
// all of it has settled: the tree is settled with a hole from the new end to the old one, which no
// journal knows of, and cut. What lay there is gone: growing again shows zeroes.
//
// A snapshot that has not settled has the size of its volume, and settles first.

// ResizeOptions are options of ResizeVolume. The zero value is the default.
type ResizeOptions struct {
	// Shrink allows a size below the present one. What lies beyond it is dropped.
	Shrink bool
}

// ResizeVolume changes the size of a volume, in bytes, to a multiple of its block size. A smaller
// size needs o.Shrink, or the error is ErrInvalid; it is ErrInUse while the volume is open, which
// it cannot become meanwhile. Devices and files of a volume that has grown get the new size from
// their owners. Snapshots keep theirs. After an error the volume is unchanged, otherwise its new
// size is durable.
func (s *Store) ResizeVolume(ctx context.Context, name string, size int64, o ResizeOptions) (VolumeInfo, error) {
	v, shrinks, err := s.catalog.beginResize(name, size, o)
	if err != nil {
		return VolumeInfo{}, err
	}
	if shrinks {
		defer s.catalog.unreserve(v)
	}
	r := &resizing{
		catalog: s.catalog, settler: s.settler, layers: s.layerSettler, sealer: s.sealer, v: v, size: size, shrinks: shrinks,
	}
	if err := settleAndTry(ctx, r.try); err != nil {
		return VolumeInfo{}, err
	}
	return s.catalog.info(v), nil
}

// resizing is one call of ResizeVolume.
type resizing struct {
	catalog *catalog
	settler *settler
	layers  *layerSettler
	sealer  *sealer
	v       *volume
	size    int64 // bytes
	shrinks bool
}

// beginResize returns a volume that can have the size, and whether it gets smaller: then the volume
// cannot be opened until unreserve.
func (c *catalog) beginResize(name string, size int64, o ResizeOptions) (v *volume, shrinks bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, err = c.volume(name); err != nil {
		return nil, false, err
	}
	now := v.ref.Size
	switch {
	case v.ref.Scratch():
		return nil, false, fmt.Errorf("volume %s: %w: a scratch volume keeps the size of its snapshot", name, ErrInvalid)
	case v.damageError() != nil:
		return nil, false, v.damageError()
	case v.reserved != "":
		return nil, false, fmt.Errorf("volume %s: %w: it is being %s", name, ErrInUse, v.reserved)
	}
	if err := refs.CheckSize(size, v.ref.BlockSize); err != nil {
		return nil, false, fmt.Errorf("volume %s: %w", name, err)
	}
	switch {
	case size >= now:
		return v, false, nil
	case !o.Shrink:
		return nil, false, fmt.Errorf("volume %s has %d bytes: %w: a size of %d drops the last %d bytes and what they hold; shrink its file system first, then use --shrink",
			name, now, ErrInvalid, size, now-size)
	case len(v.users) > 0:
		return nil, false, fmt.Errorf("volume %s: %w by %s: it can grow now, and shrink when it is detached",
			name, ErrInUse, strings.Join(v.users, ", "))
	}
	if err := v.mayShrink(size); err != nil {
		return nil, false, err
	}
	v.reserved = "resized"
	return v, true, nil
}

// mayShrink returns an error if the volume's reservation exceeds the smaller size.
// REQUIRES: catalog.mu is held.
func (v *volume) mayShrink(size int64) error {
	if v.ref.Reserve <= size {
		return nil
	}
	return fmt.Errorf("volume %s has a reservation of %d bytes: %w: a size of %d is less; set a smaller reservation first",
		v.Name(), v.ref.Reserve, ErrInvalid, size)
}

// try settles what has to settle first, and then resizes, unless something has to settle again.
func (r *resizing) try(ctx context.Context) error {
	v := r.v
	var gen uint64
	if r.shrinks {
		var err error
		if gen, err = v.freeze(); err != nil {
			return err
		}
	}
	if gen = max(gen, r.catalog.needed(v)); gen > 0 {
		if err := r.settler.waitSettled(ctx, v, gen); err != nil {
			return fmt.Errorf("volume %s does not settle: %w", v.Name(), err)
		}
	}
	if err := v.pinnedError(); err != nil && r.shrinks {
		return err
	}
	return r.settler.do(ctx, r.resize)
}

// resize makes the tree of the new size, and records it. It runs on the settler's goroutine, as
// whatever writes objects does.
func (r *resizing) resize(ctx context.Context) error {
	v := r.v
	if err := r.layers.gate.writeError(); err != nil {
		return err
	}
	if err := v.settleMu.LockContext(ctx); err != nil {
		return err
	}
	defer v.settleMu.Unlock()
	if v.dropped.Load() {
		return errGone(v)
	}
	switch now := v.Size(); {
	case now == r.size:
		return nil
	case now > r.size && !r.shrinks:
		return fmt.Errorf("volume %s: %w: it was resized to %d bytes meanwhile", v.Name(), ErrInUse, now)
	}
	defer r.layers.barrier.settle()()
	v.mu.Lock()
	st := r.layers.begin(ctx, v, newLayer(v.baseGen, nil))
	v.mu.Unlock()
	if err := r.discard(st); err != nil {
		return err
	}
	root, err := r.tree(st)
	if err == nil {
		err = st.durable()
	}
	if err != nil {
		st.undo()
		return err
	}
	// Before the record: an error is one of a volume that is as it was.
	if err := r.sealer.sealFilled(&r.layers.appenders); err != nil {
		return err
	}
	failpoint.Here(failpoint.ResizeStored)
	if err := r.record(st, root); err != nil {
		return err
	}
	v.counted = nil
	r.layers.log.Info("a volume was resized", "volume", v.Name(), "from", st.old.Size, "to", r.size)
	return nil
}

// discard makes a hole in st's layer beyond the new end, and finds out whether that can settle: the
// chunk that the new end lies in keeps its first part, and gets a new hash.
func (r *resizing) discard(st *settling) error {
	if r.size < st.old.Size {
		end := uint64(st.old.Size) / SectorSize
		st.l.insert(extent.Extent{End: end, Sectors: end - uint64(r.size)/SectorSize})
		chunk := int64(st.old.ChunkSize)
		if first := r.size / chunk * chunk; first < r.size {
			last := min(first+chunk, st.old.Size)
			err := st.read(disk.AlignedBuffer(int(chunk)), uint64(first)/SectorSize, uint64(last)/SectorSize)
			if old := (*oldError)(nil); errors.As(err, &old) {
				err = fmt.Errorf("volume %s can't end within a damaged chunk, at byte %d: %w", r.v.Name(), r.size, old.err)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := st.lookAhead(); err != nil {
		return err
	}
	return st.surveyErasures()
}

// tree stores the tree of the new size, and returns its root.
func (r *resizing) tree(st *settling) (*merkle.Root, error) {
	top, err := st.top()
	if err != nil {
		return nil, err
	}
	root := merkle.EmptyRoot(r.size, st.old.ChunkSize)
	level := st.old.Depth
	for ; level > root.Depth && !top.IsZero(); level-- {
		n, err := st.objects.Node(st.ctx, top, level)
		if err != nil {
			return nil, err
		}
		if n.Count() > 1 || n[0].IsZero() {
			panic(fmt.Sprintf("a tree of depth %d, cut to %d bytes, has nodes beyond them", st.old.Depth, r.size))
		}
		top = n[0]
	}
	for ; level < root.Depth && !top.IsZero(); level++ {
		n := &merkle.Node{top}
		enc, k := n.Encode(), merkle.NodeKind(level+1)
		top = merkle.Sum(k, enc)
		if _, err := st.store(k, top, enc); err != nil {
			return nil, err
		}
	}
	root.Top = top
	return &root, st.storeRoot(&root)
}

// record makes the new size durable, and lets it take effect.
func (r *resizing) record(st *settling, root *merkle.Root) error {
	c, v := r.catalog, r.v
	b := newBase(r.layers.cache, *root)
	rec := refs.Record{
		Op: refs.OpResize, ID: v.ref.ID, Size: r.size, ObjectLogs: objectLogLengths(r.layers.segments), Time: time.Now().UTC().Truncate(time.Second),
	}
	return c.update(st.ctx, func() ([]refs.Record, error) {
		switch {
		case c.refs.ByID[v.ref.ID] != v.ref:
			return nil, errGone(v)
		case c.neededLocked(v) > 0 || r.shrinks && !v.settledWhole():
			return nil, errStillNeeded
		}
		if err := v.mayShrink(r.size); err != nil && r.shrinks {
			return nil, err
		}
		if rec.Gen, rec.Logical = v.ref.Gen, st.account(); !v.ref.Root.IsZero() {
			rec.Root = b.id.String()
		}
		c.trimObjectLogs(rec.ObjectLogs, r.layers.segments)
		return []refs.Record{rec}, nil
	}, func() {
		failpoint.Here(failpoint.ResizeRecorded)
		r.layers.objects.Deepen(root.Depth)
		v.setBase(b, rec.Logical)
	})
}

// settledWhole reports whether no layer changes anything.
// REQUIRES: catalog.mu is held.
func (v *volume) settledWhole() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.layers {
		if !l.empty() {
			return false
		}
	}
	return true
}

// setBase sets a base of another size. If the base has grown, leaves in memory stay: what they
// cover has not changed.
// REQUIRES: settleMu and catalog.mu are held.
func (v *volume) setBase(b *base, logical int64) {
	v.obstacle = obstacle{}
	v.mu.Lock()
	defer v.mu.Unlock()
	if b.root.Size > v.base.root.Size {
		copy(b.runs, v.base.runs)
		v.base.runs = nil
	}
	v.base.drop()
	v.base, v.baseData = b, logical
	v.size.Store(b.root.Size)
	v.keepPromise()
}
