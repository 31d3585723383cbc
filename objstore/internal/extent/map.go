package extent

import (
	"iter"

	"github.com/tidwall/btree"
)

// Map maps sectors to the extents that hold them. Sectors that were never inserted are in no
// extent. A Map is not safe for concurrent use, look-ups included: they share its scratch space.
type Map struct {
	tree  *btree.BTreeG[Extent] // in order of End
	found []Extent              // result of Overlapping, until the next call
	limit uint64                // where visit ends
	visit func(Extent) bool     // bound once, so that a look-up allocates nothing
}

// NewMap returns an empty map.
func NewMap() *Map {
	m := &Map{tree: btree.NewBTreeGOptions(
		func(a, b Extent) bool { return a.End < b.End },
		btree.Options{NoLocks: true, Degree: 32})}
	m.visit = func(e Extent) bool {
		if e.Start() >= m.limit {
			return false
		}
		m.found = append(m.found, e)
		return true
	}
	return m
}

// Empty reports whether nothing was inserted.
func (m *Map) Empty() bool { return m.tree.Len() == 0 }

// All returns the extents in order. The map must not change meanwhile.
func (m *Map) All() iter.Seq[Extent] { return func(yield func(Extent) bool) { m.tree.Scan(yield) } }

// Overlapping returns the extents that overlap the sectors [from, to), in order and uncut. The
// slice is valid until the next call of Overlapping or Insert.
func (m *Map) Overlapping(from, to uint64) []Extent {
	m.found = m.found[:0]
	m.limit = to
	m.tree.Ascend(Extent{End: from + 1}, m.visit)
	return m.found
}

// Insert puts e on top of what is there.
func (m *Map) Insert(e Extent) {
	from, end := e.Start(), e.End
	m.found, m.limit = m.found[:0], end
	m.tree.Ascend(Extent{End: from}, m.visit) // from the one that ends where e begins
	for _, old := range m.found {
		if old.End == from {
			if old.continuedBy(e) {
				m.tree.Delete(old)
				e.Sectors, e.File = e.Sectors+old.Sectors, old.File
			}
			continue
		}
		if old.End != end {
			m.tree.Delete(old) // one with the same end is replaced by the last Set
		}
		if s := old.Start(); s < from {
			m.tree.Set(old.Cut(s, from))
		}
		if old.End > end {
			m.tree.Set(old.Cut(end, old.End))
		}
	}
	m.tree.Set(e)
}

// At returns the extent that a sector lies in, or else the first one behind it; ok is false if
// there is neither.
func (m *Map) At(sector uint64) (e Extent, ok bool) {
	m.tree.Ascend(Extent{End: sector + 1}, func(c Extent) bool {
		e, ok = c, true
		return false
	})
	return e, ok
}

// Next returns the first sector at or behind from that lies in an extent.
func (m *Map) Next(from uint64) (sector uint64, ok bool) {
	e, ok := m.At(from)
	if !ok {
		return 0, false
	}
	return max(e.Start(), from), true
}

// Hole reports whether holes cover all of the sectors [from, to).
func (m *Map) Hole(from, to uint64) bool {
	for from < to {
		e, ok := m.At(from)
		if !ok || !e.Hole() || e.Start() > from {
			return false
		}
		from = e.End
	}
	return true
}
