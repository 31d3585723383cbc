package index

import "sync"

type mem struct {
	mu     sync.RWMutex
	places map[[32]byte]Place
	marks  map[uint32]bool
}

// NewMem gives an index in memory, for tests and for stores that live in memory. It outlasts Close, so that
// a test can open a store with it again.
func NewMem() Index {
	return &mem{places: map[[32]byte]Place{}, marks: map[uint32]bool{}}
}

func (m *mem) Get(hash *[32]byte) (Place, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	p, ok := m.places[*hash]
	return p, ok
}

func (m *mem) Put(entries []Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		m.places[e.Hash] = e.Place
	}
	return nil
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
	return int64(len(m.places))*(32+8) + int64(len(m.marks))*4
}

func (m *mem) Close() error { return nil }
