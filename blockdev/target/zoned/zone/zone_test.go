package zone

import (
	"errors"
	"testing"
)

func TestGeometry(t *testing.T) {
	good := Geometry{Size: 64 << 20, ZoneSize: 1 << 20, Conventional: 2, MaxOpen: 4, MaxActive: 8}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Geometry){
		"no size":                    func(g *Geometry) { g.Size = 0 },
		"half a zone":                func(g *Geometry) { g.Size += 1 << 19 },
		"no power of two":            func(g *Geometry) { g.ZoneSize = 3 << 20; g.Size = 63 << 20 },
		"no zone size":               func(g *Geometry) { g.ZoneSize = 0 },
		"small zones":                func(g *Geometry) { g.ZoneSize = MinSize / 2 },
		"large zones":                func(g *Geometry) { g.ZoneSize = 2 * MaxSize; g.Size = 4 * MaxSize },
		"too many zones":             func(g *Geometry) { g.Size = (MaxZones + 1) << 20 },
		"all conventional":           func(g *Geometry) { g.Conventional = 64 },
		"negative conventional":      func(g *Geometry) { g.Conventional = -1 },
		"more open than there are":   func(g *Geometry) { g.MaxOpen, g.MaxActive = 63, 0 },
		"more active than there are": func(g *Geometry) { g.MaxActive = 63 },
		"more open than active":      func(g *Geometry) { g.MaxOpen = 9 },
		"negative open":              func(g *Geometry) { g.MaxOpen = -1 },
	} {
		g := good
		change(&g)
		if err := g.Validate(); !errors.Is(err, ErrGeometry) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWords(t *testing.T) {
	g := Geometry{Size: 4 * MinSize, ZoneSize: MinSize, Conventional: 1}
	for _, c := range []struct {
		zone int
		w    Word
		good bool
	}{
		{0, 0, true},
		{1, 0, false},
		{0, pack(Empty, 0, 0), false},
		{1, pack(Empty, 0, 0), true},
		{1, pack(Empty, 512, 0), false},
		{1, pack(Closed, 512, 512), true},
		{1, pack(Closed, 512, 1024), false},
		{1, pack(Closed, MinSize, 0), false},
		{1, pack(Full, MinSize, 512), true},
		{1, pack(Full, 0, 0), true},
		{1, pack(Full, MinSize+512, 0), false},
		{1, pack(ReadOnly, MinSize, 0), true},
		{1, pack(Offline, 0, 0), true},
		{1, pack(5, 0, 0), false},
		{1, pack(Empty, 0, 0) | 1<<usedBits, false},
	} {
		if err := g.Check(c.zone, c.w); (err == nil) != c.good || err != nil && !errors.Is(err, ErrWord) {
			t.Errorf("zone %d, %#x: %v", c.zone, uint64(c.w), err)
		}
	}
	if w := Word(0x4_0002_00000006); pack(Closed, 6*512, 2*512) != w { // the bytes of files
		t.Errorf("a word is %#x, want %#x", uint64(pack(Closed, 6*512, 2*512)), uint64(w))
	}
	for from, to := range map[Word]Word{
		pack(ExplicitlyOpen, 0, 0):     pack(Empty, 0, 0),
		pack(ImplicitlyOpen, 512, 512): pack(Closed, 512, 512),
		pack(Closed, 512, 512):         pack(Closed, 512, 512),
		pack(Full, MinSize, 512):       pack(Full, MinSize, 512),
		0:                              0,
	} {
		if got := from.PowerCycled(); got != to {
			t.Errorf("%#x is %#x after a power cycle, want %#x", uint64(from), uint64(got), uint64(to))
		}
	}
}

// newSet makes zones of 64 KiB, all empty.
func newSet(t *testing.T, g Geometry) *Set {
	t.Helper()
	g.ZoneSize = MinSize
	words := make([]Word, g.Zones())
	for i := range words {
		words[i] = g.Fresh(i)
	}
	s, err := New(g, words, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An append that fails between others leaves its place, which is given back with the last of them.
func TestFailedAppends(t *testing.T) {
	s := newSet(t, Geometry{Size: 4 * MinSize})
	for _, want := range []int64{0, 4096, 8192} {
		if at, err := s.Append(0, 4096); err != nil || at != want {
			t.Fatalf("an append goes to %d, %v, want %d", at, err, want)
		}
	}
	s.Abort(8192, 4096)
	s.Done(4096, 4096)
	if at, err := s.Append(0, 4096); err != nil || at != 12288 {
		t.Fatalf("beside one in flight an append goes to %d, %v", at, err)
	}
	s.Abort(12288, 4096)
	s.Abort(0, 4096)
	if err := s.Write(8192, 4096); err != nil {
		t.Errorf("the write pointer is not behind what was written: %v", err)
	}
}

// A zone that is closed, because another is opened, while its first write is in flight is empty
// again if that fails.
func TestClosedInFlight(t *testing.T) {
	s := newSet(t, Geometry{Size: 4 * MinSize, MaxOpen: 1, MaxActive: 2})
	if err := s.Write(0, 4096); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(MinSize, 4096); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(2*MinSize, 4096); !errors.Is(err, ErrTooManyActive) {
		t.Errorf("a third active zone of 2: %v", err)
	}
	s.Abort(0, 4096)
	if err := s.Write(2*MinSize, 4096); err != nil {
		t.Errorf("after a write has failed: %v", err)
	}
}

func TestExplicitlyOpenStays(t *testing.T) {
	s := newSet(t, Geometry{Size: 4 * MinSize, MaxOpen: 1})
	if err := s.Open(0); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(MinSize, 4096); !errors.Is(err, ErrTooManyOpen) {
		t.Errorf("a second zone beside one that is explicitly open: %v", err)
	}
	if err := errors.Join(s.Close(0), s.Write(MinSize, 4096), s.Open(2*MinSize)); err != nil {
		t.Error(err)
	}
}

// A zone that is closed, because another is opened, while it is reset stays empty in its word: bytes
// below its old pointer may be gone.
func TestClosedWhileReset(t *testing.T) {
	s := newSet(t, Geometry{Size: 4 * MinSize, MaxOpen: 1})
	if err := s.Write(0, 4096); err != nil {
		t.Fatal(err)
	}
	s.Done(0, 4096)
	if begun, err := s.BeginReset(0); !begun || err != nil {
		t.Fatal(begun, err)
	}
	if err := s.Write(MinSize, 4096); err != nil {
		t.Fatal(err)
	}
	words := make([]Word, 4)
	if s.Snapshot(words); words[0] != s.geo.Fresh(0) {
		t.Errorf("the word of a zone that is reset is %#x", uint64(words[0]))
	}
	s.EndReset(0, true)
	if s.Snapshot(words); words[0] != pack(Closed, 4096, 4096) {
		t.Errorf("the word after a reset that has failed is %#x", uint64(words[0]))
	}
}
