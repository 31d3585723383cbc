package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// readPieces fills buf with what the plan describes, and checks what the plan wants checked.
func readPieces(p *Plan, buf []byte) error {
	for i := range p.Pieces {
		c := &p.Pieces[i]
		b := buf[c.BufOff : c.BufOff+c.Len]
		if c.Hole {
			clear(b)
			continue
		}
		if c.settled && p.Checked() {
			if err := p.verifier.read(c, b); err != nil {
				return err
			}
			continue
		}
		if err := disk.ReadAligned(c.seg.Data, b, c.FileOff); err != nil {
			return readError(c, err)
		}
	}
	return nil
}

// readError says where a piece could not be read. A file that ends before it is damaged.
func readError(c *Piece, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &CorruptError{File: segment.Name(c.seg.ID), Offset: c.FileOff, Object: "data", Err: io.ErrUnexpectedEOF}
	}
	return fmt.Errorf("read %s at byte %d: %w", segment.Name(c.seg.ID), c.FileOff, err)
}

// readAt serves any range of an image, sector-aligned or not. The context ends waits, and is looked
// at between the parts of a large range.
func readAt(ctx context.Context, im Image, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w: negative offset", off, ErrInvalid)
	}
	var plan Plan
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= im.Size() {
			return done, io.EOF
		}
		from := at / SectorSize * SectorSize
		to := min(disk.RoundUp(off+int64(len(p)), SectorSize), im.Size(), from+MaxRequest/4)
		if err := ctx.Err(); err != nil {
			return done, err
		}
		if err := planLoaded(ctx, im, from, int(to-from), &plan); err != nil {
			return done, err
		}
		n, err := readPart(&plan, p[done:], at, from, to)
		im.Release(&plan)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readPart reads the bytes from at on out of the planned range [from, to).
func readPart(plan *Plan, p []byte, at, from, to int64) (int, error) {
	n := int(min(int64(len(p)), to-at))
	if at == from && int64(n) == to-from {
		return n, readPieces(plan, p[:n])
	}
	buf := make([]byte, to-from)
	if err := readPieces(plan, buf); err != nil {
		return 0, err
	}
	return copy(p[:n], buf[at-from:]), nil
}

// planLoaded plans, and loads what the plan needs.
func planLoaded(ctx context.Context, im Image, off int64, length int, p *Plan) error {
	for {
		err := im.Plan(off, length, p)
		if !errors.Is(err, ErrNotLoaded) {
			return err
		}
		if err := im.Load(ctx, off, length); err != nil {
			return err
		}
	}
}

// sparse is an image that knows its large holes.
type sparse interface {
	Image
	// emptyUntil returns the end of the hole at a sector's offset, as far as the layers and the
	// inner nodes of the tree tell, or the offset itself.
	emptyUntil(ctx context.Context, off int64) (int64, error)
}

// emptyBelow returns the end of the hole at off in a tree, as far as its inner nodes tell, but end
// at most; off itself where there is no hole. It blocks.
func (s *Store) emptyBelow(ctx context.Context, root *merkle.Root, off, end int64) (int64, error) {
	if end <= off {
		return off, nil
	}
	chunk := off / int64(root.ChunkSize)
	h := root.Top
	for level := root.Depth; !h.IsZero(); level-- {
		if level == 1 {
			return off, nil
		}
		n, err := s.objects.Node(ctx, h, level)
		if err != nil {
			return off, err
		}
		h = n[chunk/merkle.Span(level-1)%merkle.FanOut]
		if h.IsZero() {
			span := merkle.Span(level - 1)
			end = min(end, (chunk/span+1)*span*int64(root.ChunkSize))
		}
	}
	return end, nil
}

// untouched returns the end of what the layers leave as it is at off; off itself where one of them
// touches it. Under the volume's lock.
func untouched(layers []*layer, off, size int64) int64 {
	end := size
	for _, l := range layers {
		if at, ok := l.extents.Next(uint64(off) / SectorSize); ok {
			end = min(end, int64(at)*SectorSize)
		}
	}
	return end
}

func (v *volume) emptyUntil(ctx context.Context, off int64) (int64, error) {
	defer v.s.readers.lookups.Hold().Release() // before the root is looked at
	v.mu.Lock()
	root := v.base.root
	end := untouched(v.layers, off, root.Size)
	v.mu.Unlock()
	return v.s.emptyBelow(ctx, &root, off, end)
}

// extentAt finds how far what lies at off continues: in leaps over large holes, else in steps, and
// by these at most extentReach bytes.
func extentAt(ctx context.Context, im sparse, off int64) (hole bool, length int64, err error) {
	const step, extentReach = MaxRequest, 1 << 30
	if off < 0 || off >= im.Size() {
		return false, 0, fmt.Errorf("extent at %d: %w: the image has %d bytes", off, ErrInvalid, im.Size())
	}
	var plan Plan
	from := off / SectorSize * SectorSize
	for at, planned := from, 0; at < im.Size() && planned < extentReach; {
		if err := ctx.Err(); err != nil {
			return false, 0, err
		}
		if end, err := im.emptyUntil(ctx, at); err != nil {
			return false, 0, err
		} else if end > at {
			if at > from && !hole {
				return hole, length, nil
			}
			hole, at, length = true, end, end-off
			continue
		}
		n := int(min(step, im.Size()-at))
		if err := planLoaded(ctx, im, at, n, &plan); err != nil {
			return false, 0, err
		}
		im.Release(&plan)
		for i := range plan.Pieces {
			c := &plan.Pieces[i]
			if at == from && i == 0 {
				hole = c.Hole
			}
			if c.Hole != hole {
				return hole, at + int64(c.BufOff) - off, nil
			}
		}
		planned += n
		at += int64(n)
		length = at - off
	}
	return hole, length, nil
}

// ReadAt implements [Image].
func (v *volume) ReadAt(p []byte, off int64) (int, error) {
	return readAt(context.Background(), v, p, off)
}

// ReadContext implements [Image].
func (v *volume) ReadContext(ctx context.Context, p []byte, off int64) (int, error) {
	return readAt(ctx, v, p, off)
}

// Extent implements [Image].
func (v *volume) Extent(ctx context.Context, off int64) (hole bool, length int64, err error) {
	return extentAt(ctx, v, off)
}

// WriteAt as io.WriterAt, at any offset and length inside the volume; blocks.
func (v *volume) WriteAt(p []byte, off int64) (int, error) {
	return v.WriteContext(context.Background(), p, off)
}

// WriteContext is WriteAt, and returns early with the error of ctx when ctx ends: what it counts is
// written then, and nothing else.
func (v *volume) WriteContext(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off > v.Size()-int64(len(p)) {
		return 0, fmt.Errorf("write of %d bytes at %d: %w: volume %s has %d bytes", len(p), off, ErrInvalid, v.Name(), v.Size())
	}
	done := 0
	for done < len(p) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		n, err := v.writePart(ctx, p[done:], off+int64(done))
		if err != nil {
			return done, err // of what failed nothing counts as written
		}
		done += n
	}
	return done, nil
}

// writePart writes a beginning of p: up to a sector's end if off is inside a sector, else whole
// sectors, or the part of a last sector.
func (v *volume) writePart(ctx context.Context, p []byte, off int64) (int, error) {
	within := int(off % SectorSize)
	if within == 0 && len(p) >= SectorSize {
		n := min(len(p), MaxRequest/4) / SectorSize * SectorSize
		return n, v.writeSectors(ctx, p[:n], off)
	}
	n := min(len(p), SectorSize-within)
	return n, v.writePartial(ctx, p[:n], off-int64(within), within)
}

// retry waits and tries again as long as op, which is Reserve or TryZero (hole) for the range, is
// told to, and ctx lasts.
func (v *volume) retry(ctx context.Context, off, length int64, hole bool, op func() error) error {
	for {
		err := op()
		if !errors.Is(err, ErrBusy) {
			return err
		}
		if err := v.Wait(ctx, off, length, hole); err != nil {
			return err
		}
	}
}

// Zero makes a hole (discard, write zeroes), and waits where TryZero would not.
func (v *volume) Zero(off, length int64) error {
	return v.ZeroContext(context.Background(), off, length)
}

// ZeroContext is Zero, and ends its wait with the error of ctx when ctx ends.
func (v *volume) ZeroContext(ctx context.Context, off, length int64) error {
	return v.retry(ctx, off, length, true, func() error { return v.TryZero(off, length) })
}

// writeSectors writes whole sectors, of MaxRequest bytes at most. If others have taken the room that
// there was when it was reserved, it waits as for room that can't be reserved, and tries once more.
func (v *volume) writeSectors(ctx context.Context, p []byte, off int64) error {
	err := v.tryWriteSectors(ctx, p, off)
	if !errors.Is(err, errDiskFull) {
		return err
	}
	if err := v.Wait(ctx, off, int64(len(p)), false); err != nil {
		return err
	}
	return v.tryWriteSectors(ctx, p, off)
}

// errDiskFull is an ErrNoSpace: the file system has refused a write for which there was room when it
// was reserved.
var errDiskFull = fmt.Errorf("the disk is full: %w", ErrNoSpace)

func (v *volume) tryWriteSectors(ctx context.Context, p []byte, off int64) error {
	var w Write
	if err := v.retry(ctx, off, int64(len(p)), false, func() error { return v.Reserve(off, len(p), &w) }); err != nil {
		return err
	}
	if err := disk.WriteAligned(w.seg.Data, p, w.FileOff); err != nil {
		v.Abort(&w)
		if err = v.s.spaceError(err); errors.Is(err, ErrNoSpace) {
			err = fmt.Errorf("%w: %w", errDiskFull, err)
		}
		return fmt.Errorf("write %s: %w", segment.Name(w.seg.ID), err)
	}
	return v.Commit(&w)
}
