package image

import (
	"encoding/binary"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/qcow2/format"
)

// put writes entries of one L2 table, which the image owns, and then changes the table in memory:
// what is found there is in the file. The caller holds meta.
func (m *Image) put(table int64, items []item, entries []format.Entry) error {
	h := &m.head
	m.mu.RLock()
	l1 := m.l1[table]
	m.mu.RUnlock()
	t, err := m.table(l1)
	if err != nil {
		return err
	}
	size, off := int64(h.EntrySize()), int64(l1&^format.Copied)
	index := func(i int) int64 { return items[i].cluster % h.L2Entries() }
	from, to := m.window(index(0)*size, (index(len(items)-1)+1)*size, h.ClusterSize())
	p := backing.Memory(int(to - from))
	copy(p, t[from:to])
	for i := range items {
		h.PutEntry(p, index(i)-from/size, entries[i])
	}
	if err := m.writeAt(p, off+from); err != nil {
		return err
	}
	m.mu.Lock()
	copy(t[from:], p)
	m.mu.Unlock()
	return nil
}

// window returns what has to be written of a structure of length bytes for the bytes from..to to change.
func (m *Image) window(from, to, length int64) (int64, int64) {
	align := max(int64(m.file.OffAlign()), 512)
	return from &^ (align - 1), min((to+align-1)&^(align-1), length)
}

// writePart writes the bytes from..to of a structure at off, and what the file wants around them.
func (m *Image) writePart(b []byte, off, from, to int64) error {
	from, to = m.window(from, to, int64(len(b)))
	p := backing.Memory(int(to - from))
	copy(p, b[from:to])
	return m.writeAt(p, off+from)
}

// writeAt writes metadata.
func (m *Image) writeAt(p []byte, off int64) error {
	err := m.file.WriteAt(p, off)
	m.wrote.Add(1)
	return err
}

// own makes the L2 tables of L1 entries first..last such that they may be written: makes those that
// are missing, and copies those that a snapshot shares.
func (m *Image) own(first, last int64) error {
	for i := first; i <= last; i++ {
		if m.owns(i) {
			continue
		}
		host, fresh, err := m.alloc.take()
		if err != nil {
			return err
		}
		used, err := m.newTable(i, host, fresh)
		if !used {
			m.alloc.giveBack(host)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Image) owns(i int64) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.l1[i]&format.Copied != 0
}

// newTable makes a cluster the L2 table of L1 entry i. used: the cluster may be named by it.
func (m *Image) newTable(i, host int64, fresh bool) (used bool, err error) {
	m.meta.Lock()
	defer m.meta.Unlock()
	if m.owns(i) {
		return false, nil
	}
	old := m.l1[i] // changes with meta held only
	t := make([]byte, m.head.ClusterSize())
	if old != 0 {
		shared, err := m.table(old)
		if err != nil {
			return false, err
		}
		copy(t, shared)
	}
	if old != 0 || !fresh {
		if err := m.writePart(t, host, 0, int64(len(t))); err != nil {
			return false, err
		}
		if err := m.Sync(); err != nil {
			return false, err
		}
	}
	e := uint64(host) | format.Copied
	if err := m.putL1(i, e); err != nil {
		return true, m.fail(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.l1[i] = e
	m.keep(host, t)
	if old != 0 {
		m.epoch.freed = append(m.epoch.freed, span{int64(old) >> m.head.ClusterBits, 1})
	}
	return true, nil
}

// putL1 writes an L1 entry.
func (m *Image) putL1(i int64, e uint64) error {
	align := max(int64(m.file.OffAlign()), 512)
	from := i * 8 &^ (align - 1)
	b, err := m.read(m.head.L1Offset+from, align)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint64(b[i*8-from:], e)
	return m.writePart(b, m.head.L1Offset+from, 0, align)
}

// putHeader writes a field of the header.
func (m *Image) putHeader(field int64, b []byte) error {
	align := max(int64(m.file.OffAlign()), 512)
	sector, err := m.read(0, align)
	if err != nil {
		return err
	}
	copy(sector[field:], b)
	return m.writePart(sector, 0, 0, align)
}

func words(b []byte) []uint64 {
	w := make([]uint64, len(b)/8)
	for i := range w {
		w[i] = binary.BigEndian.Uint64(b[i*8:])
	}
	return w
}
