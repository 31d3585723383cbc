package zone

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// modelZone is a zone as the standards describe it, without a thought for speed.
type modelZone struct {
	cond     Condition
	finished bool
	flights  []flight // writes in flight
	written  int64    // from the zone's start, in bytes
	reserved int64    // where the next write goes
	last     int64    // length of the write that made written what it is
	again    bool     // that write may come once more
	resets   bool     // a reset has begun
}

type flight struct{ off, n int64 } // on the disk

type model struct {
	geo   Geometry
	zones []modelZone
	order []int // implicitly open zones
}

func (m *model) count(is func(Condition) bool) (n int) {
	for _, z := range m.zones {
		if is(z.cond) {
			n++
		}
	}
	return n
}

// set gives a zone a condition.
func (m *model) set(i int, c Condition) {
	z := &m.zones[i]
	if z.cond == ImplicitlyOpen && c != ImplicitlyOpen {
		m.order = slices.Delete(m.order, slices.Index(m.order, i), slices.Index(m.order, i)+1)
	}
	if z.cond != ImplicitlyOpen && c == ImplicitlyOpen {
		m.order = append(m.order, i)
	}
	z.cond = c
}

func (m *model) close(i int) {
	if z := &m.zones[i]; z.written == 0 && len(z.flights) == 0 {
		m.set(i, Empty)
	} else {
		m.set(i, Closed)
	}
}

// opened makes a zone open, or says which limit forbids it.
func (m *model) opened(i int, as Condition) error {
	c := m.zones[i].cond
	isOpen := func(c Condition) bool { return c == ImplicitlyOpen || c == ExplicitlyOpen }
	isActive := func(c Condition) bool { return isOpen(c) || c == Closed }
	if isOpen(c) {
		if as == ExplicitlyOpen {
			m.set(i, as)
		}
		return nil
	}
	if !isActive(c) && m.geo.MaxActive > 0 && m.count(isActive) == m.geo.MaxActive {
		return ErrTooManyActive
	}
	if m.geo.MaxOpen > 0 && m.count(isOpen) == m.geo.MaxOpen {
		if len(m.order) == 0 {
			return ErrTooManyOpen
		}
		m.close(m.order[0])
	}
	m.set(i, as)
	return nil
}

// refuses is the error of anything that changes a zone in its condition.
func (m *model) refuses(i int) error {
	switch m.zones[i].cond {
	case NotWP:
		return ErrConventional
	case ReadOnly:
		return ErrReadOnly
	case Offline:
		return ErrOffline
	default:
		return nil
	}
}

func (m *model) begin(i int, n int64) error {
	if err := m.opened(i, ImplicitlyOpen); err != nil {
		return err
	}
	z := &m.zones[i]
	z.flights = append(z.flights, flight{int64(i)*m.geo.ZoneSize + z.reserved, n})
	z.reserved += n
	z.again = false
	return nil
}

func (m *model) end(i, k int, done bool) {
	z := &m.zones[i]
	f := z.flights[k]
	z.flights = slices.Delete(z.flights, k, k+1)
	if to := f.off + f.n - int64(i)*m.geo.ZoneSize; done && to > z.written {
		z.written, z.last = to, f.n
	}
	if len(z.flights) == 0 {
		z.reserved = z.written
		if z.written == 0 && z.cond == Closed {
			m.set(i, Empty)
		}
	}
	if z.written == m.geo.ZoneSize {
		m.set(i, Full)
	}
}

// restart is the death of the server: what is in flight never ends.
func (m *model) restart() {
	m.order = nil
	for i := range m.zones {
		z := &m.zones[i]
		z.flights, z.resets, z.reserved, z.again = nil, false, z.written, z.last != 0
		if z.cond == ImplicitlyOpen {
			m.order = append(m.order, i)
		}
	}
}

const block = 4096

// TestModel does what a host may do, and what it must not, with crashes in between.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const zones = 6
		g := Geometry{ZoneSize: MinSize, Size: zones * MinSize, Conventional: rapid.IntRange(0, 2).Draw(t, "conventional")}
		g.MaxActive = rapid.IntRange(0, 4).Draw(t, "max active")
		g.MaxOpen = rapid.IntRange(0, max(g.MaxActive, 3)).Draw(t, "max open")
		if g.MaxActive != 0 {
			g.MaxOpen = min(g.MaxOpen, g.MaxActive)
		}
		words := make([]Word, zones)
		m := &model{geo: g, zones: make([]modelZone, zones)}
		for i := range words {
			words[i] = g.Fresh(i)
			m.zones[i].cond = words[i].Condition()
		}
		if g.Conventional == 0 && rapid.Bool().Draw(t, "damaged") {
			words[0] = g.AllReadable()
			m.zones[0] = modelZone{cond: ReadOnly, written: MinSize, reserved: MinSize}
		}
		memory := make([]uint64, zones)
		s, err := New(g, words, memory)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			s = step(t, m, s, memory)
			compare(t, m, s)
		}
	})
}

func step(t *rapid.T, m *model, s *Set, memory []uint64) *Set {
	i := rapid.IntRange(0, len(m.zones)-1).Draw(t, "zone")
	z := &m.zones[i]
	start := int64(i) * m.geo.ZoneSize
	n := int64(rapid.IntRange(1, 6).Draw(t, "blocks")) * block
	var got, want error
	op := rapid.SampledFrom([]string{"write", "write", "write", "write", "append", "append", "done", "done", "done", "abort", "open", "close", "finish", "reset", "end reset", "fail reset", "restart", "again"}).Draw(t, "op")
	switch op {
	case "write":
		at := z.reserved
		if at == MinSize || rapid.IntRange(0, 4).Draw(t, "elsewhere") == 0 {
			at = int64(rapid.IntRange(0, 15).Draw(t, "block")) * block
		}
		got, want = s.Write(start+at, n), m.write(i, at, n)
	case "again":
		if z.last == 0 {
			return s
		}
		got, want = s.Write(start+z.written-z.last, z.last), m.write(i, z.written-z.last, z.last)
	case "append":
		var at int64
		at, got = s.Append(start, n)
		if want = m.append(i, n); want == nil && at != z.flights[len(z.flights)-1].off {
			t.Fatalf("an append to zone %d went to %d, want %d", i, at, z.flights[len(z.flights)-1].off)
		}
	case "done", "abort":
		if len(z.flights) == 0 {
			return s
		}
		k := rapid.IntRange(0, len(z.flights)-1).Draw(t, "write")
		f := z.flights[k]
		if op == "done" {
			s.Done(f.off, f.n)
		} else {
			s.Abort(f.off, f.n)
		}
		m.end(i, k, op == "done")
	case "open":
		got, want = s.Open(start), m.open(i)
	case "close":
		got = s.Close(start)
		if want = m.refuses(i); want == nil && z.resets {
			want = ErrBusy
		} else if want == nil && (z.cond == ImplicitlyOpen || z.cond == ExplicitlyOpen) {
			m.close(i)
		}
	case "finish":
		got, want = s.Finish(start), m.finish(i)
	case "reset":
		var begun bool
		begun, got = s.BeginReset(start)
		if want = m.refuses(i); want == nil && (z.resets || len(z.flights) > 0) {
			want = ErrBusy
		} else if want == nil {
			if begun != (z.cond != Empty) {
				t.Fatalf("a reset of zone %d, %v: begun %v", i, z.cond, begun)
			}
			z.resets = begun
		}
	case "end reset", "fail reset":
		if !z.resets {
			return s
		}
		s.EndReset(start, op == "fail reset")
		z.resets = false
		if op == "end reset" {
			m.set(i, Empty)
			*z = modelZone{cond: Empty}
		}
	case "restart":
		for k := range m.zones {
			if z := &m.zones[k]; z.resets { // its word says that it is empty already
				m.set(k, Empty)
				*z = modelZone{cond: Empty}
			}
		}
		m.restart()
		words := make([]Word, len(memory))
		for k, w := range memory {
			words[k] = Word(w)
		}
		ns, err := New(m.geo, words, memory)
		if err != nil {
			t.Fatalf("the words after a crash: %v", err)
		}
		ns.mu.Lock()
		ns.opened = slices.Clone(m.order) // the order of opening is not kept
		if m.geo.MaxOpen == 0 {
			ns.opened = nil
		}
		ns.mu.Unlock()
		return ns
	}
	if !errors.Is(got, want) || (got == nil) != (want == nil) {
		t.Fatalf("%s of zone %d, %v, %d bytes: %v, want %v", op, i, z.cond, n, got, want)
	}
	return s
}

func (m *model) write(i int, at, n int64) error {
	z := &m.zones[i]
	if at+n > m.geo.ZoneSize {
		return ErrBoundary
	}
	if z.cond == NotWP {
		return nil
	}
	if err := m.refuses(i); err != nil {
		return err
	}
	if z.resets {
		return ErrBusy
	}
	if z.again && len(z.flights) == 0 && at+n == z.written && n == z.last {
		z.again = false
		z.flights = append(z.flights, flight{int64(i)*m.geo.ZoneSize + at, n})
		return nil
	}
	if z.cond == Full {
		return ErrFull
	}
	if at != z.reserved {
		return ErrPointer
	}
	return m.begin(i, n)
}

func (m *model) append(i int, n int64) error {
	z := &m.zones[i]
	if err := m.refuses(i); err != nil {
		return err
	}
	if z.resets {
		return ErrBusy
	}
	if z.cond == Full || z.reserved+n > m.geo.ZoneSize {
		return ErrFull
	}
	return m.begin(i, n)
}

func (m *model) open(i int) error {
	if err := m.refuses(i); err != nil {
		return err
	}
	if m.zones[i].resets {
		return ErrBusy
	}
	if m.zones[i].cond == Full {
		return ErrFull
	}
	return m.opened(i, ExplicitlyOpen)
}

func (m *model) finish(i int) error {
	z := &m.zones[i]
	if err := m.refuses(i); err != nil {
		return err
	}
	if z.resets || len(z.flights) > 0 {
		return ErrBusy
	}
	if z.cond != Full {
		m.set(i, Full)
		z.finished, z.last, z.again = true, 0, false
	}
	return nil
}

// compare compares the report, what can be read, the words, and the counts.
func compare(t *rapid.T, m *model, s *Set) {
	const sectors = MinSize / sectorSize
	report := make([]byte, (len(m.zones)+1)*DescriptorSize)
	s.Report(report, 0)
	snap := make([]Word, len(m.zones))
	s.Snapshot(snap)
	for i := range m.zones {
		z, d := &m.zones[i], report[i*DescriptorSize:]
		if c := Condition(d[25]); c != z.cond {
			t.Fatalf("zone %d is %v, want %v", i, c, z.cond)
		}
		pointer := uint64(i)*sectors + uint64(z.written)/sectorSize
		readable := z.written
		switch z.cond {
		case NotWP, Full:
			pointer = uint64(i+1) * sectors
		case ReadOnly:
			pointer = ^uint64(0)
		default:
		}
		if z.cond == NotWP {
			readable = MinSize
		}
		if got := binary.NativeEndian.Uint64(d[16:]); got != pointer {
			t.Fatalf("the pointer of zone %d, %v, is at %d, want %d", i, z.cond, got, pointer)
		}
		if got, err := s.Readable(int64(i)*MinSize, MinSize); err != nil || got != readable {
			t.Fatalf("of zone %d, %v, %d bytes can be read, %v, want %d", i, z.cond, got, err, readable)
		}
		if w := snap[i]; z.resets && w != m.geo.Fresh(i) || !z.resets && (w.Condition() != z.cond || w.Written() != z.written || w.last() != z.last) {
			t.Fatalf("the word of zone %d is %#x, want %v, %d bytes, last %d", i, uint64(w), z.cond, z.written, z.last)
		}
		if err := m.geo.Check(i, snap[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(report[len(m.zones)*DescriptorSize:], make([]byte, DescriptorSize)) {
		t.Fatal("the report goes on after the last zone")
	}
	open, active := m.count(Condition.open), m.count(Condition.active)
	if s.open != open || s.active != active {
		t.Fatalf("%d zones open and %d active, want %d and %d", s.open, s.active, open, active)
	}
	if m.geo.MaxOpen > 0 && open > m.geo.MaxOpen || m.geo.MaxActive > 0 && active > m.geo.MaxActive {
		t.Fatalf("%d zones open and %d active, the limits are %d and %d", open, active, m.geo.MaxOpen, m.geo.MaxActive)
	}
}
