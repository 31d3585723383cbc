package objstore

import (
	"fmt"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// partial is the write of a part of a sector that is under way. Devices write whole sectors; through the mount a
// write may begin and end anywhere. Such a write reads the sector, changes a part of it and writes it back, and
// what others write to the sector in between must not be undone by that. It holds no lock that they would have to
// wait for: they leave a mark, and it begins again. Guarded by the volume's mu.
type partial struct {
	busy      bool
	exclusive bool // it was overtaken too often: requests that append a record wait for it
	stale     bool // the sector was written since it was read
	sector    uint64
}

// overtakings is how often the write of a part of a sector may have to begin again before others wait for it.
const overtakings = 8

// written notes that somebody has written the sectors [from, to).
func (p *partial) written(from, to uint64) {
	if p.busy && from <= p.sector && p.sector < to {
		p.stale = true
	}
}

// writePartial puts p into the sector at off, from its byte within on.
func (v *volume) writePartial(p []byte, off int64, within int) error {
	v.rmw.Lock()
	defer v.rmw.Unlock()
	// The place is reserved once, and written as often as it takes: nobody reads it before the commit.
	var w Write
	if err := v.retry(off, SectorSize, false, func() error { return v.Reserve(off, SectorSize, &w) }); err != nil {
		return err
	}
	defer v.partialDone()
	var sector [SectorSize]byte
	for try := 0; ; try++ {
		v.mu.Lock()
		v.partial = partial{busy: true, sector: uint64(off) / SectorSize, exclusive: try >= overtakings}
		v.mu.Unlock()
		if _, err := v.ReadAt(sector[:], off); err != nil {
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

// commitUnlessStale commits if what was read is still what is there.
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
