package lincheck

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// script is a history made by hand. Times are its own.
type script struct{ History }

func (s *script) write(client int, v Value, from, cells int64, call, ret int64) {
	s.ops = append(s.ops, op{client: client, write: true, off: from * CellSize, length: cells * CellSize, value: v, call: call, ret: ret})
}

func (s *script) read(client int, from int64, call, ret int64, values ...Value) {
	s.ops = append(s.ops, op{client: client, off: from * CellSize, length: int64(len(values)) * CellSize, read: values, call: call, ret: ret})
}

func (s *script) last(f func(*op)) { f(&s.ops[len(s.ops)-1]) }

func lost(o *op)     { o.unknown = true }
func reissued(o *op) { o.death = Reissued }
func cut(o *op)      { o.death = Cut }

// The checker passes what a disk may do, and nothing else.
func TestCheckKnowsGoodFromBad(t *testing.T) {
	eight := func(v Value) []Value { return []Value{v, v, v, v, v, v, v, v} }
	for _, c := range []struct {
		name string
		good bool
		do   func(s *script)
	}{
		{"nothing", true, func(*script) {}},
		{"zeroes in the beginning", true, func(s *script) { s.read(0, 0, 1, 2, eight(0)...) }},
		{"read what was written", true, func(s *script) { s.write(0, 7, 0, 8, 1, 2); s.read(1, 0, 3, 4, eight(7)...) }},
		{"stale read", false, func(s *script) {
			s.write(0, 7, 0, 8, 1, 2)
			s.write(0, 8, 0, 8, 3, 4)
			s.read(1, 0, 5, 6, eight(7)...)
		}},
		{"read from nowhere", false, func(s *script) { s.write(0, 7, 0, 8, 1, 2); s.read(1, 0, 3, 4, eight(9)...) }},
		{"read from the future", false, func(s *script) { s.read(1, 0, 1, 2, eight(7)...); s.write(0, 7, 0, 8, 3, 4) }},
		{"a write that was lost", false, func(s *script) { s.write(0, 7, 0, 8, 1, 2); s.read(1, 0, 3, 4, eight(0)...) }},
		{"zeroes that were not seen", false, func(s *script) {
			s.write(0, 7, 0, 8, 1, 2)
			s.write(0, 0, 0, 8, 3, 4)
			s.read(1, 0, 5, 6, eight(7)...)
		}},
		{"either of two at once", true, func(s *script) {
			s.write(0, 7, 0, 8, 1, 9)
			s.write(1, 8, 0, 8, 1, 9)
			s.read(2, 0, 2, 3, eight(8)...)
			s.read(2, 0, 4, 5, eight(7)...)
		}},
		{"there and back again", false, func(s *script) {
			s.write(0, 7, 0, 8, 1, 9)
			s.write(1, 8, 0, 8, 1, 9)
			s.read(2, 0, 2, 3, eight(8)...)
			s.read(2, 0, 4, 5, eight(7)...)
			s.read(2, 0, 6, 7, eight(8)...)
		}},
		{"two readers, two orders, one sector", false, func(s *script) {
			s.write(0, 7, 0, 8, 1, 9)
			s.write(1, 8, 0, 8, 1, 9)
			s.read(2, 0, 2, 3, eight(8)...)
			s.read(2, 0, 4, 5, eight(7)...)
			s.read(3, 0, 2, 3, eight(7)...)
			s.read(3, 0, 4, 5, eight(8)...)
		}},
		{"two readers, two orders, two sectors", true, func(s *script) {
			s.write(0, 7, 0, 16, 1, 9)
			s.write(1, 8, 0, 16, 1, 9)
			s.read(2, 0, 10, 11, eight(8)...)
			s.read(2, 8, 10, 11, eight(7)...)
		}},
		{"half a sector", false, func(s *script) {
			s.write(0, 7, 0, 8, 1, 2)
			s.read(1, 0, 3, 4, 7, 7, 7, 7, 0, 0, 0, 0)
		}},
		{"a part of a sector", true, func(s *script) {
			s.write(0, 7, 0, 8, 1, 2)
			s.write(0, 8, 2, 3, 3, 4)
			s.read(1, 0, 5, 6, 7, 7, 8, 8, 8, 7, 7, 7)
			s.read(1, 4, 5, 6, 8, 7)
		}},
		{"a part undoes the whole", false, func(s *script) {
			s.write(0, 7, 0, 8, 1, 2)
			s.write(0, 8, 2, 3, 3, 6) // read the sector when it was 7
			s.write(1, 9, 0, 8, 4, 5)
			s.read(1, 0, 7, 8, 7, 7, 8, 8, 8, 7, 7, 7)
		}},
		{"a failed write that is not there", true, func(s *script) {
			s.write(0, 7, 0, 8, 1, 2)
			s.last(lost)
			s.kills = []kill{{1, 3}}
			s.read(1, 0, 4, 5, eight(0)...)
		}},
		{"a failed write that is there", true, func(s *script) {
			s.write(0, 7, 0, 8, 1, 2)
			s.last(lost)
			s.kills = []kill{{1, 3}}
			s.read(1, 0, 4, 5, eight(7)...)
		}},
		{"a failed write that comes after the server's death", false, func(s *script) {
			s.write(0, 7, 0, 8, 1, 2)
			s.last(lost)
			s.kills = []kill{{1, 3}}
			s.read(1, 0, 4, 5, eight(0)...)
			s.read(1, 0, 6, 7, eight(7)...)
		}},
		{"an interrupted write that comes later", false, func(s *script) {
			s.write(0, 7, 0, 8, 1, 2)
			s.last(func(o *op) { o.unknown, o.ended = true, true })
			s.read(1, 0, 4, 5, eight(0)...)
			s.read(1, 0, 6, 7, eight(7)...)
		}},
		{"an answered write that a kill has lost", false, func(s *script) {
			s.write(0, 7, 0, 8, 1, 2)
			s.kills = []kill{{3, 4}}
			s.read(1, 0, 5, 6, eight(0)...)
		}},
		{"a reissued write, done twice", true, func(s *script) {
			s.write(0, 7, 0, 8, 1, 9)
			s.last(reissued)
			s.kills = []kill{{3, 4}}
			s.read(1, 0, 2, 3, eight(7)...)
			s.write(1, 8, 0, 8, 5, 6)
			s.read(1, 0, 7, 8, eight(8)...)
			s.read(1, 0, 10, 11, eight(7)...)
		}},
		{"the same without a kill", false, func(s *script) {
			s.write(0, 7, 0, 8, 1, 9)
			s.last(reissued)
			s.read(1, 0, 2, 3, eight(7)...)
			s.write(1, 8, 0, 8, 5, 6)
			s.read(1, 0, 7, 8, eight(8)...)
			s.read(1, 0, 10, 11, eight(7)...)
		}},
		{"answered by a server that was dead", true, func(s *script) {
			s.write(0, 7, 0, 8, 1, 4)
			s.last(cut)
			s.kills = []kill{{3, 5}}
			s.read(1, 0, 6, 7, eight(0)...)
		}},
	} {
		s := &script{}
		c.do(s)
		_, err := s.Check(time.Minute)
		if c.good && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if !c.good && !errors.Is(err, ErrNotLinearizable) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

// A write that failed while no server was killed is not passed over.
func TestCheckWantsAKillForAFailure(t *testing.T) {
	s := &script{}
	s.write(0, 7, 0, 8, 1, 2)
	s.last(lost)
	if _, err := s.Check(time.Minute); err == nil || !strings.Contains(err.Error(), "no kill explains it") {
		t.Errorf("got %v", err)
	}
}

// Registers of 4096 bytes: two sectors that are read together must have been so at one moment.
func TestCheckLargerRegisters(t *testing.T) {
	s := &script{}
	s.write(0, 7, 0, 8, 1, 2)
	s.write(0, 8, 8, 8, 3, 4)
	read := make([]Value, 64)
	for i := range 8 {
		read[8+i] = 8 // but not what was written before that
	}
	s.read(1, 0, 1, 9, read...)
	if _, err := s.Check(time.Minute); err != nil {
		t.Errorf("by sectors: %v", err)
	}
	if _, err := s.CheckAs(4096, time.Minute); !errors.Is(err, ErrNotLinearizable) {
		t.Errorf("by pages: got %v", err)
	}
	for i := range 8 {
		s.ops[2].read[i] = 7
	}
	if _, err := s.CheckAs(4096, time.Minute); err != nil {
		t.Errorf("by pages: %v", err)
	}
}

func TestCellsAreDecoded(t *testing.T) {
	p := make([]byte, 4*CellSize)
	fill(p, 1<<20, 77)
	clear(p[CellSize : 2*CellSize])
	v, err := decode(p, 1<<20)
	if err != nil || len(v) != 4 || v[0] != 77 || v[1] != 0 || v[3] != 77 {
		t.Errorf("decoded %v, %v", v, err)
	}
	if _, err := decode(p, 1<<20+CellSize); !errors.Is(err, errElsewhere) {
		t.Errorf("moved: %v", err)
	}
	for i := range CellSize {
		p[i] ^= 1
		if _, err := decode(p, 1<<20); err == nil {
			t.Errorf("byte %d flipped: not noticed", i)
		}
		p[i] ^= 1
	}
}

// memory is a disk that is linearizable, unless it is told not to be.
type memory struct {
	mu    sync.Mutex
	b     []byte
	old   []byte // what a stale read gives
	calls int
	how   string // "stale", "lost", "torn", "unlocked"
}

func (m *memory) bad() bool { m.calls++; return m.calls%50 == 0 }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := m.b
	if m.how == "stale" && m.bad() {
		from = m.old
	}
	return copy(p, from[off:]), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.old[off:], m.b[off:off+int64(len(p))])
	switch {
	case m.how == "lost" && m.bad():
		return len(p), nil
	case m.how == "torn" && m.bad():
		return len(p), m.put(p[:len(p)-CellSize/2], off)
	case m.how == "unlocked" && off%SectorSize+int64(len(p)) < SectorSize:
		// Part of a sector, by reading and writing it while others may write: what varve once did.
		sector := off / SectorSize * SectorSize
		was := append([]byte(nil), m.b[sector:sector+SectorSize]...)
		m.mu.Unlock()
		time.Sleep(10 * time.Microsecond)
		m.mu.Lock()
		copy(was[off-sector:], p)
		return len(p), m.put(was, sector)
	}
	return len(p), m.put(p, off)
}

func (m *memory) put(p []byte, off int64) error { copy(m.b[off:], p); return nil }

func (m *memory) Zero(off, length int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.old[off:], m.b[off:off+length])
	clear(m.b[off : off+length])
	return nil
}

func (m *memory) Flush() error { return nil }

// The work that the other tests use finds a broken disk out, and no fault with a good one.
func TestWorkFindsABrokenDisk(t *testing.T) {
	for _, how := range []string{"", "stale", "lost", "torn", "unlocked"} {
		m := &memory{b: make([]byte, 32*SectorSize), old: make([]byte, 32*SectorSize), how: how}
		h := NewHistory()
		var wg sync.WaitGroup
		for i := range 4 {
			c := h.Client(m, Aborted)
			r := rand.New(rand.NewPCG(1, uint64(i)))
			wg.Go(func() {
				w := Work{To: int64(len(m.b)), Largest: 8, Ragged: true, RaggedZero: true}
				if err := w.Do(c, r, 500, nil); err != nil && how != "torn" {
					t.Errorf("%q: %v", how, err)
				}
			})
		}
		wg.Wait()
		report, err := h.Check(time.Minute)
		t.Logf("%q: %+v, %.100v", how, report, err)
		if how == "" && err != nil || how != "" && !errors.Is(err, ErrNotLinearizable) {
			t.Errorf("%q: %v", how, err)
		}
	}
}
