package objstore

import (
	"varve/objstore/internal/extent"
	"varve/objstore/internal/journal"
)

// slots is a run of bytes that was handed out in a segment.
type slots struct {
	seg      uint32
	from, to int64 // bytes in the file
}

// layer is one generation of a volume's live map: what was written between two freezes, over
// everything older. The newest layer of a volume takes the writes; the others are frozen and wait
// to settle, oldest first. A layer is guarded by its volume's lock.
type layer struct {
	gen         uint64
	journal     *journal.File
	bytes       int64             // bytes written, overwritten ones too
	growth      int64             // bytes of chunks that its writes may have made of holes, at most
	fresh       bool              // has a write that was not relogged, and so settles by itself
	holes       bool              // a hole was inserted
	erased      int64             // bytes of holes that were inserted, those that were holes before too
	reservation settleReservation // what settling it may write
	handed      []slots           // slots of its writes; dead once the layer has settled, but for adopted objects

	extents *extent.Map
}

func newLayer(gen uint64, j *journal.File) *layer {
	return &layer{gen: gen, journal: j, extents: extent.NewMap()}
}

// insert puts e on top of the extents that the layer has.
func (l *layer) insert(e extent.Extent) {
	if e.Hole() {
		l.holes = true
		l.erased += int64(e.Sectors) * SectorSize
	}
	l.extents.Insert(e)
}

// hand notes slots that were handed out, and joins runs that touch.
func (l *layer) hand(seg uint32, from, to int64) {
	if n := len(l.handed); n > 0 {
		if h := &l.handed[n-1]; h.seg == seg && h.to == from {
			h.to = to
			return
		}
	}
	l.handed = append(l.handed, slots{seg, from, to})
}

// empty reports whether the layer changes nothing. Such a layer is not frozen, even if slots were
// handed out and given up: its journal would have no record, and a later opening could not find the
// generation of a snapshot that refers to it.
func (l *layer) empty() bool { return l.extents.Empty() }
