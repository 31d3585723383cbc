package objstore

import (
	"testing"

	"pgregory.net/rapid"
)

// TestLayer holds the extent map against one value a sector.
func TestLayer(t *testing.T) {
	type loc struct {
		seg  uint32
		file uint64
	}
	rapid.Check(t, func(t *rapid.T) {
		const sectors = 64
		l := newLayer(1, nil)
		model := map[uint64]loc{}
		for range rapid.IntRange(1, 60).Draw(t, "inserts") {
			from := rapid.Uint64Range(0, sectors-1).Draw(t, "from")
			n := rapid.Uint64Range(1, sectors-from).Draw(t, "n")
			e := extent{end: from + n, n: n, seg: rapid.Uint32Range(0, 2).Draw(t, "seg")}
			if e.seg != 0 {
				e.file = rapid.Uint64Range(8, 40).Draw(t, "file")
			}
			l.insert(e)
			for i := range n {
				at := loc{seg: e.seg}
				if e.seg != 0 {
					at.file = e.file + i
				}
				model[from+i] = at
			}
		}
		got := map[uint64]loc{}
		var last uint64
		l.extents.Scan(func(e extent) bool {
			if e.n == 0 || e.start() < last {
				t.Fatalf("extent %+v begins before %d", e, last)
			}
			last = e.end
			for i := range e.n {
				at := loc{seg: e.seg}
				if e.seg != 0 {
					at.file = e.file + i
				}
				got[e.start()+i] = at
			}
			return true
		})
		if len(got) != len(model) {
			t.Fatalf("%d sectors mapped, want %d", len(got), len(model))
		}
		for s, want := range model {
			if got[s] != want {
				t.Fatalf("sector %d at %+v, want %+v", s, got[s], want)
			}
		}
		from := rapid.Uint64Range(0, sectors-1).Draw(t, "collect from")
		to := rapid.Uint64Range(from+1, sectors).Draw(t, "collect to")
		covered := 0
		for _, e := range l.collect(from, to) {
			c := e.cut(from, to)
			covered += int(c.n)
		}
		want := 0
		for s := from; s < to; s++ {
			if _, ok := model[s]; ok {
				want++
			}
		}
		if covered != want {
			t.Fatalf("collect [%d, %d): %d sectors, want %d", from, to, covered, want)
		}
	})
}
