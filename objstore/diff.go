package objstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// ImageName names what a volume is now, or one of its snapshots.
type ImageName struct {
	Volume   string `json:"volume"`
	Snapshot string `json:"snapshot,omitempty"` // empty: the volume as it is now
}

// String returns VOLUME, or VOLUME@SNAPSHOT.
func (n ImageName) String() string {
	if n.Snapshot == "" {
		return n.Volume
	}
	return n.Volume + "@" + n.Snapshot
}

// ParseImageName reads what String returns. It does not check the names.
func ParseImageName(s string) ImageName {
	volume, snap, _ := strings.Cut(s, "@")
	return ImageName{volume, snap}
}

// DiffImage is one of the two images of a diff.
type DiffImage struct {
	ImageName
	Root string `json:"root"` // hex
	Size int64  `json:"size"` // bytes
}

// DiffImages is what a diff compares.
type DiffImages struct {
	From      DiffImage `json:"from"`
	To        DiffImage `json:"to"`
	ChunkSize int       `json:"chunk_size"` // bytes: the unit of changes
}

// Change is a range of the later image that differs from the earlier one.
type Change struct {
	Off  int64 `json:"offset"`         // bytes
	Len  int64 `json:"length"`         // bytes
	Zero bool  `json:"zero,omitempty"` // it reads as zeroes, and takes no space
}

// DiffTotal is the sum of the changes of a diff.
type DiffTotal struct {
	Ranges int64 `json:"ranges"`
	Bytes  int64 `json:"bytes"`      // in all ranges
	Zero   int64 `json:"zero_bytes"` // of Bytes, in ranges that read as zeroes
}

// Diff compares two images of any volumes, the trees of which share what is alike: it reads the
// nodes above a difference and nothing else. It calls begin once, and then changed for each range,
// in order, that has to be written to the image from, cut or extended by zeroes to the size of the
// image to, to make an image like to of it. A range consists of whole chunks, of which some byte
// differs; it ends with the image. Neither call may use the store's volumes in a way that waits for
// the call to end.
//
// A volume is compared as it is when Diff is called. What has not settled of an image settles
// first, which takes as long as its tail is long; ErrReadOnly in a store that takes no writes.
// Until Diff returns both images stay what they are, whatever is written or deleted meanwhile.
func (s *Store) Diff(ctx context.Context, from, to ImageName, begin func(DiffImages) error, changed func(Change) error) (total DiffTotal, err error) {
	var views [2]*View
	for i, name := range []ImageName{from, to} {
		w, oerr := s.openSettled(ctx, name)
		if oerr != nil {
			return total, oerr
		}
		defer func() { err = errors.Join(err, w.Close()) }()
		views[i] = w
	}
	a, b := views[0].base.root, views[1].base.root // settled: they stay
	images := DiffImages{
		From: DiffImage{from, views[0].Root(), a.Size}, To: DiffImage{to, views[1].Root(), b.Size}, ChunkSize: b.ChunkSize,
	}
	if err := begin(images); err != nil {
		return total, err
	}
	return total, merkle.Diff(ctx, &a, &b, s.objects.PeekNode, func(c merkle.Change) error {
		total.Ranges++
		total.Bytes += c.Len
		if c.Zero {
			total.Zero += c.Len
		}
		return changed(Change(c))
	})
}

// openSettled opens an image for reading once it has settled: the view has a base of its own.
func (s *Store) openSettled(ctx context.Context, name ImageName) (*View, error) {
	var w *View
	var err error
	if name.Snapshot == "" {
		w, err = s.openNow(ctx, name.Volume)
	} else {
		w, err = s.OpenSnapshot(name.Volume, name.Snapshot)
	}
	if err != nil || w.Root() != "" {
		return w, err
	}
	err = s.settler.waitSettled(ctx, w.v, w.gen)
	if err == nil && w.Root() == "" { // its volume is gone
		err = ErrNotFound
	}
	if err != nil {
		_ = w.Close() // the first error is the one to report
		return nil, fmt.Errorf("%v does not settle: %w", name, err)
	}
	return w, nil
}

// openNow opens a volume for reading, as it is now.
func (s *Store) openNow(ctx context.Context, volume string) (*View, error) {
	v, err := s.catalog.find(volume)
	if err == nil {
		err = v.damageError()
	}
	if err == nil && s.writeError() == nil {
		err = s.settler.settlePinned(ctx, v)
	}
	for err == nil {
		var gen uint64
		if gen, err = v.freeze(); err != nil {
			break
		}
		if w := s.catalog.viewOf(v, gen); w != nil {
			return w, nil
		}
		err = ctx.Err() // it was written to, and has settled, since: a later state is as good
	}
	return nil, err
}

// viewOf registers a view of what a volume was when a generation was frozen. nil: a later
// generation has settled already.
func (c *catalog) viewOf(v *volume, gen uint64) *View {
	c.mu.Lock()
	defer c.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	w := &View{s: v.s, size: v.base.root.Size, of: v, pin: segment.NewPin()}
	switch {
	case v.baseGen > gen:
		return nil
	case v.baseGen == gen:
		w.base, w.root = newBase(v.s.leaves, v.base.root), v.base.id
	default:
		w.v, w.gen = v, gen
	}
	c.views[w] = struct{}{}
	return w
}
