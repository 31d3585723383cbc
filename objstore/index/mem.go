package index

import "sync"

// MemEntries is how many entries an index in memory has at most where a store can't open the one on its disk: some 200 MiB,
// which reach over 32 GiB of 16 KiB chunks. What it has let go is found in the records of the segments.
const MemEntries = 2 << 20

type mem struct {
	limit int // entries; 0: any number

	mu        sync.RWMutex
	locations map[[32]byte]Location
	marks     map[uint32]bool
}

// NewMem gives an index in memory, for tests and for stores that live in memory. It outlasts Close, so that
// a test can open a store with it again.
func NewMem() Index { return NewBoundedMem(0) }

// NewBoundedMem is NewMem with a bound: for each entry above it, another one is let go, whichever. 0: there is none.
func NewBoundedMem(entries int) Index {
	return &mem{limit: entries, locations: map[[32]byte]Location{}, marks: map[uint32]bool{}}
}

func (m *mem) Get(hash *[32]byte) (Location, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	p, ok := m.locations[*hash]
	return p, ok
}

func (m *mem) Put(entries []Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		m.locations[e.Hash] = e.Location
		if m.limit > 0 && len(m.locations) > m.limit {
			m.letGo(e.Hash)
		}
	}
	return nil
}

// letGo drops an entry, but for one. Under mu.
func (m *mem) letGo(keep [32]byte) {
	for h := range m.locations {
		if h != keep {
			delete(m.locations, h)
			return
		}
	}
}

func (m *mem) Sync() error { return nil }

func (m *mem) Done(segment uint32) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.marks[segment]
}

func (m *mem) MarkDone(segments ...uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range segments {
		m.marks[s] = true
	}
	return nil
}

func (m *mem) Forget(segment uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.marks, segment)
	return nil
}

func (m *mem) Bytes() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return int64(len(m.locations))*(32+8) + int64(len(m.marks))*4
}

func (m *mem) Close() error { return nil }
