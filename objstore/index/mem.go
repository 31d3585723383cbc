package index

import "sync"

// MemEntries bounds the entries of an index in memory, which a store uses if it cannot open the one
// on its disk: some 200 MiB, for 32 GiB of 16 KiB chunks. Objects that it has dropped are found in
// the segments' lists of objects.
const MemEntries = 2 << 20

type mem struct {
	limit int // entries; 0: any number

	mu        sync.RWMutex
	locations map[[32]byte]Location
	marks     map[uint32]bool
}

// NewMem returns an index in memory, for tests and for stores in memory. It can be used after
// Close, so that a test can open a store with it again.
func NewMem() Index { return NewBoundedMem(0) }

// NewBoundedMem is NewMem with a bound: each entry above it replaces an arbitrary other one. 0
// means no bound.
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

func (m *mem) Delete(hashes [][32]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range hashes {
		delete(m.locations, h)
	}
	return nil
}

// letGo drops an arbitrary entry except one. mu is held.
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
