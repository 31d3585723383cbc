package extent

import (
	"testing"

	"pgregory.net/rapid"
)

// TestMap holds a Map against one value a sector.
func TestMap(t *testing.T) {
	type loc struct {
		seg  uint32
		file uint64
	}
	rapid.Check(t, func(t *rapid.T) {
		const sectors = 64
		m := NewMap()
		model := map[uint64]loc{}
		for range rapid.IntRange(1, 60).Draw(t, "inserts") {
			from := rapid.Uint64Range(0, sectors-1).Draw(t, "from")
			n := rapid.Uint64Range(1, sectors-from).Draw(t, "n")
			e := Extent{End: from + n, Sectors: n, Segment: rapid.Uint32Range(0, 2).Draw(t, "seg")}
			if e.Segment != 0 {
				e.File = rapid.Uint64Range(8, 40).Draw(t, "file")
			}
			m.Insert(e)
			for i := range n {
				at := loc{seg: e.Segment}
				if e.Segment != 0 {
					at.file = e.File + i
				}
				model[from+i] = at
			}
		}
		got := map[uint64]loc{}
		var last uint64
		for e := range m.All() {
			if e.Sectors == 0 || e.Start() < last {
				t.Fatalf("extent %+v begins before %d", e, last)
			}
			last = e.End
			for i := range e.Sectors {
				at := loc{seg: e.Segment}
				if e.Segment != 0 {
					at.file = e.File + i
				}
				got[e.Start()+i] = at
			}
		}
		if len(got) != len(model) {
			t.Fatalf("%d sectors mapped, want %d", len(got), len(model))
		}
		for s, want := range model {
			if got[s] != want {
				t.Fatalf("sector %d at %+v, want %+v", s, got[s], want)
			}
		}
		from := rapid.Uint64Range(0, sectors-1).Draw(t, "overlapping from")
		to := rapid.Uint64Range(from+1, sectors).Draw(t, "overlapping to")
		covered := 0
		for _, e := range m.Overlapping(from, to) {
			c := e.Cut(from, to)
			covered += int(c.Sectors)
		}
		want := 0
		for s := from; s < to; s++ {
			if _, ok := model[s]; ok {
				want++
			}
		}
		if covered != want {
			t.Fatalf("overlapping [%d, %d): %d sectors, want %d", from, to, covered, want)
		}
		next, hole := to, true
		for s := to; s > from; s-- {
			at, ok := model[s-1]
			if ok {
				next = s - 1
			}
			hole = hole && ok && at.seg == 0
		}
		if at, ok := m.Next(from); next < to && (!ok || at != next) || next == to && ok && at < to {
			t.Fatalf("next sector from %d: %d, %v, want %d", from, at, ok, next)
		}
		if m.Hole(from, to) != hole {
			t.Fatalf("hole over [%d, %d): %v, want %v", from, to, !hole, hole)
		}
	})
}

// The read path looks extents up for each request.
func TestLookUpAllocatesNothing(t *testing.T) {
	m := NewMap()
	for i := range uint64(1000) {
		m.Insert(Extent{End: 8*i + 8, Sectors: 7, File: 8 * i, Segment: 1})
	}
	m.Overlapping(0, 8000) // grows the result once
	if n := testing.AllocsPerRun(100, func() { m.Overlapping(100, 4000) }); n != 0 {
		t.Errorf("a look-up allocates %v times", n)
	}
}
