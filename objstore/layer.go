package objstore

import "github.com/tidwall/btree"

// extent is a run of sectors of a volume and where they lie.
type extent struct {
	end  uint64 // volume sector behind the last one; the order of the map
	n    uint64 // sectors
	file uint64 // sector in the segment's file
	seg  uint32 // 0: a hole
}

func (e extent) start() uint64 { return e.end - e.n }

// cut gives the part of e inside [from, to).
func (e extent) cut(from, to uint64) extent {
	if s := e.start(); s < from {
		e.file += from - s
		e.n -= from - s
	}
	if e.end > to {
		e.n -= e.end - to
		e.end = to
	}
	return e
}

// slots is a run of bytes that was handed out in a segment.
type slots struct {
	seg      uint32
	from, to int64 // bytes in the file
}

// layer is one generation of a volume's live map: what was written between two freezes, over everything
// older. The newest layer of a volume takes the writes; the others are frozen and wait to settle, oldest
// first. It is guarded by the volume's lock.
type layer struct {
	gen     uint64
	journal *journal
	bytes   int64 // bytes written, overwritten ones too
	fresh   bool  // it has something that is not carried: it settles by itself
	holes   bool  // it has had one
	debt    debt
	handed  []slots // what these writes occupy, dead once the layer has settled, but for adopted objects

	extents *btree.BTreeG[extent]
	found   []extent // result of collect, until the next call
	limit   uint64
	visit   func(extent) bool // bound once, so that a look-up allocates nothing
}

func newLayer(gen uint64, j *journal) *layer {
	l := &layer{gen: gen, journal: j}
	l.extents = btree.NewBTreeGOptions(
		func(a, b extent) bool { return a.end < b.end },
		btree.Options{NoLocks: true, Degree: 32})
	l.visit = func(e extent) bool {
		if e.start() >= l.limit {
			return false
		}
		l.found = append(l.found, e)
		return true
	}
	return l
}

// collect gives the extents that overlap [from, to), in order, uncut. The result is valid until the next call.
func (l *layer) collect(from, to uint64) []extent {
	l.found = l.found[:0]
	l.limit = to
	l.extents.Ascend(extent{end: from + 1}, l.visit)
	return l.found
}

// insert puts e on top of what is there. An extent that ends where e begins, in the volume and in the file,
// becomes one with it.
func (l *layer) insert(e extent) {
	from, end := e.start(), e.end
	l.holes = l.holes || e.seg == 0
	l.found, l.limit = l.found[:0], end
	l.extents.Ascend(extent{end: from}, l.visit)
	for _, old := range l.found {
		if old.end == from {
			if old.seg == e.seg && (e.seg == 0 || old.file+old.n == e.file) {
				l.extents.Delete(old)
				e.n, e.file = e.n+old.n, old.file
			}
			continue
		}
		if old.end != end {
			l.extents.Delete(old) // at the same end, Set below replaces it
		}
		if s := old.start(); s < from {
			l.extents.Set(old.cut(s, from))
		}
		if old.end > end {
			l.extents.Set(old.cut(end, old.end))
		}
	}
	l.extents.Set(e)
}

// hand notes slots that were handed out; runs that touch become one.
func (l *layer) hand(seg uint32, from, to int64) {
	if n := len(l.handed); n > 0 {
		if h := &l.handed[n-1]; h.seg == seg && h.to == from {
			h.to = to
			return
		}
	}
	l.handed = append(l.handed, slots{seg, from, to})
}

// empty reports whether the layer changes nothing. Such a layer is not frozen, even if slots were handed out
// and given up: its journal would have no record, and a snapshot could not be told by its generation when
// the store opens again.
func (l *layer) empty() bool { return l.extents.Len() == 0 }

// next gives the first sector at or after from that the layer touches.
func (l *layer) next(from uint64) (uint64, bool) {
	e, ok := l.at(from)
	if !ok {
		return 0, false
	}
	return max(e.start(), from), true
}

// at gives the extent that sector from lies in, or the first one behind it.
func (l *layer) at(from uint64) (e extent, ok bool) {
	l.extents.Ascend(extent{end: from + 1}, func(c extent) bool {
		e, ok = c, true
		return false
	})
	return e, ok
}

// hole reports whether holes cover [from, to).
func (l *layer) hole(from, to uint64) bool {
	for from < to {
		e, ok := l.at(from)
		if !ok || e.seg != 0 || e.start() > from {
			return false
		}
		from = e.end
	}
	return true
}
