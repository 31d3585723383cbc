package objstore

import (
	"fmt"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// add appends a piece, or lengthens the last one. Without a seg the piece is a hole.
func (p *Plan) add(seg *segment.File, fileOff int64, length int, settled bool) {
	bufOff := 0
	if n := len(p.Pieces); n > 0 {
		last := &p.Pieces[n-1]
		if last.seg == seg && last.settled == settled && (seg == nil || last.FileOff+int64(last.Len) == fileOff) {
			last.Len += length
			return
		}
		bufOff = last.BufOff + last.Len
	}
	p.Pieces = append(p.Pieces, Piece{
		Hole: seg == nil, FD: -1, FileOff: fileOff, BufOff: bufOff, Len: length, seg: seg, settled: settled,
	})
}

// resolve sets the descriptor of every piece: the one for direct I/O if offset, length and buffer
// are aligned for it.
func (p *Plan) resolve() {
	for i := range p.Pieces {
		if c := &p.Pieces[i]; !c.Hole {
			c.FD = c.seg.Data.FD(disk.Alignment(c.FileOff | int64(c.Len) | int64(c.BufOff)))
		}
	}
}

// planLayers adds the sectors [from, to) of an image: what the newest layer has of them, and for
// the rest what older layers have, and at last b.
func planLayers(layers []*layer, b *base, p *Plan, from, to uint64) error {
	n := len(layers)
	if n == 0 {
		return b.plan(p, from, to)
	}
	l, older := layers[n-1], layers[:n-1]
	for _, e := range l.extents.Overlapping(from, to) {
		if s := e.Start(); s > from {
			if err := planLayers(older, b, p, from, s); err != nil {
				return err
			}
			from = s
		}
		c := e.Cut(from, to)
		g := b.cache.segments.Get(c.Segment)
		if g == nil && c.Segment != 0 {
			return fmt.Errorf("segment %08x: %w", c.Segment, ErrNotFound)
		}
		p.add(g, int64(c.File)*SectorSize, int(c.Sectors)*SectorSize, false) // g is nil for a hole
		from = c.End
	}
	if from < to {
		return planLayers(older, b, p, from, to)
	}
	return nil
}
