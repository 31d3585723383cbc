package objstore

import (
	"context"
	"fmt"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// partial is the write of a part of a sector that is under way. Devices write whole sectors;
// through the mount a write may begin and end anywhere. Such a write reads the sector, changes a
// part of it and writes it back, and must not undo what other requests have written to the sector
// in between. It holds no lock that they would wait for: they mark the sector as stale, and the
// partial write begins again. Guarded by the volume's mu.
type partial struct {
	busy      bool
	exclusive bool // overtaken too often: requests that append a record wait for this one
	stale     bool // the sector was written since it was read
	sector    uint64
}

// overtakings is how often a partial write begins again before other requests wait for it.
const overtakings = 8

// written notes that a request has written the sectors [from, to).
func (p *partial) written(from, to uint64) {
	if p.busy && from <= p.sector && p.sector < to {
		p.stale = true
	}
}

// writePartial writes p into the sector at off, beginning at byte within of the sector.
func (v *volume) writePartial(ctx context.Context, p []byte, off int64, within int) error {
	if err := v.rmw.LockContext(ctx); err != nil {
		return err
	}
	defer v.rmw.Unlock()
	// The slot is reserved once, and written as often as it takes: nothing reads it before the
	// commit.
	var w Write
	if err := v.retry(ctx, off, SectorSize, false, func() error { return v.Reserve(off, SectorSize, &w) }); err != nil {
		return err
	}
	defer v.partialDone()
	var sector [SectorSize]byte
	for try := 0; ; try++ {
		v.mu.Lock()
		v.partial = partial{busy: true, sector: uint64(off) / SectorSize, exclusive: try >= overtakings}
		v.mu.Unlock()
		if _, err := v.ReadContext(ctx, sector[:], off); err != nil {
			v.Abort(&w)
			return err
		}
		copy(sector[within:], p)
		if err := disk.WriteAligned(w.seg.Data, sector[:], w.FileOff); err != nil {
			v.Abort(&w)
			return v.s.spaceError(fmt.Errorf("write %s: %w", segment.Name(w.seg.ID), err))
		}
		if done, err := v.commitUnlessStale(&w); done {
			return err
		}
	}
}

// commitUnlessStale commits if the sector was not written since it was read.
func (v *volume) commitUnlessStale(w *Write) (done bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.partial.stale {
		return false, nil
	}
	return true, v.commit(w)
}

func (v *volume) partialDone() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.partial.exclusive {
		v.room.fire()
	}
	v.partial = partial{}
}
