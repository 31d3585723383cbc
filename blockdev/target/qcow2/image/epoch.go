package image

import "sync/atomic"

// Epoch is when a request has entered.
type Epoch uint64

// span is host clusters in a row.
type span struct{ first, count int64 }

// epochs keep clusters that are freed from being used while requests that may have found them are in
// flight. There are requests of two epochs at most, the current one and that before it.
//
//	freed  --sync: the entry that named it is gone for good-->  limbo[now]
//	limbo[E] --epoch E+1 begins, then E+2: nobody of E is left-->  released
type epochs struct {
	now   uint64
	users [2]atomic.Int64
	freed []span    // named by durable entries, perhaps
	limbo [2][]span // perhaps in use by requests in flight
}

// Enter counts a request that looks clusters up and uses them until Leave.
func (m *Image) Enter() Epoch {
	m.mu.RLock()
	defer m.mu.RUnlock()
	m.epoch.users[m.epoch.now&1].Add(1)
	return Epoch(m.epoch.now)
}

// Leave ends the use of clusters.
func (m *Image) Leave(e Epoch) { m.epoch.users[e&1].Add(-1) }

// settle makes all that was written durable, and returns clusters that nothing uses any more.
func (m *Image) settle() ([]span, error) {
	if err := m.writable(); err != nil {
		return nil, err
	}
	wrote := m.wrote.Load()
	m.mu.Lock()
	e := &m.epoch
	freed := e.freed
	e.freed = nil
	m.mu.Unlock()
	if err := m.file.Sync(); err != nil {
		return nil, m.fail(err)
	}
	for old := m.synced.Load(); old < wrote && !m.synced.CompareAndSwap(old, wrote); old = m.synced.Load() {
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.limbo[e.now&1] = append(e.limbo[e.now&1], freed...)
	if e.users[(e.now+1)&1].Load() != 0 {
		return nil, nil
	}
	e.now++
	released := e.limbo[e.now&1]
	e.limbo[e.now&1] = nil
	return released, nil
}

// Durable reports whether a sync of data makes it durable: all entries are.
func (m *Image) Durable() bool { return m.synced.Load() == m.wrote.Load() }
