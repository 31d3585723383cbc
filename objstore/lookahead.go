package objstore

import (
	"errors"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/extent"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
)

// Before a settling copies anything it looks whether it can succeed: copies that are made and given
// back, at each try, cost the disk more than the writes that they are of. Two things fail again at
// each try: a lost tree node, and a damaged chunk that was overwritten in part and may not be
// pinned in the tail. The nodes are few, and stay in the cache for the settling itself. The old
// chunks are as many as the copies, so settling looks only at the one that the last try failed for.

// obstacle is what made the last try to settle a layer fail. The zero value is none.
type obstacle struct {
	gen      uint64
	from, to uint64 // sectors
}

// met notes what makes the settling fail.
func (st *settling) met(from, to uint64, err error) {
	if st.ctx.Err() == nil && !errors.Is(err, ErrNoSpace) {
		st.v.obstacle = obstacle{st.l.gen, from, to}
	}
}

// lookAhead returns the error with which the settling would fail, as far as reading can tell.
func (st *settling) lookAhead() error {
	if err := st.stillThere(); err != nil {
		return err
	}
	ahead := object.NodeCache / 2
	if st.v.attempts.failed.Load() > 0 {
		ahead = -1 // no bound
	}
	if _, touched := st.l.extents.Next(0); !touched {
		return nil
	}
	return st.readable(st.old.Depth, 0, st.old.Top, &ahead)
}

// stillThere looks again at the obstacle of the last try.
func (st *settling) stillThere() error {
	o := st.v.obstacle
	if o.gen != st.l.gen || o.to == 0 {
		return nil
	}
	size := int64(st.old.ChunkSize)
	defer st.lookups.Hold().Release()
	err := st.read(disk.AlignedBuffer(int(disk.RoundUp(int64(o.to-o.from)*SectorSize, size))), o.from, o.to)
	var old *oldError
	if !errors.As(err, &old) {
		return err
	}
	if int64(o.to-o.from)*SectorSize > size {
		return nil // a run of chunks, which settling takes apart
	}
	st.pins = &damagePins{err: old.err}
	err = st.heads.mayPin(st, extent.Extent{End: o.to, Sectors: o.to - o.from})
	st.pins = nil
	return err
}

// readable reads the nodes that update will read below node i of a level, up to *ahead of them. It
// reads nothing that holes cover whole.
func (st *settling) readable(level int, i int64, h merkle.Hash, ahead *int) error {
	if h.IsZero() || *ahead == 0 {
		return nil
	}
	span := uint64(merkle.Span(level)) * uint64(st.old.ChunkSize) / SectorSize
	from := uint64(i) * span
	at, touched := st.l.extents.Next(from)
	if !touched || at >= from+span {
		return nil
	}
	end := min(from+span, uint64(st.old.Size)/SectorSize)
	if st.l.extents.Hole(from, end) {
		return nil
	}
	if err := st.ctx.Err(); err != nil {
		return err
	}
	*ahead--
	n, err := st.objects.Node(st.ctx, h, level)
	if err != nil || level == 1 {
		return err
	}
	for child := span / merkle.FanOut; at < end; {
		c := (at - from) / child
		if err := st.readable(level-1, i*merkle.FanOut+int64(c), n[c], ahead); err != nil {
			return err
		}
		if at, touched = st.l.extents.Next(from + (c+1)*child); !touched {
			break
		}
	}
	return nil
}
