package vfs

import (
	"bytes"
	"math/rand/v2"
	"path"
)

// Kill returns the file system as it is after kill -9 of all its users: what is in the page cache
// stays, handles, mappings and locks are gone. The old Mem is cut if it was not yet.
func (m *Mem) Kill() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.cut {
		m.freeze()
	}
	s := m.state.clone()
	return newMem(s)
}

// PowerCut returns the file system as it is after the power went and came back: each sector, size,
// allocation and directory entry that was not durable is, at random, the old or the new one. All of
// the result is durable. The old Mem is cut if it was not yet.
func (m *Mem) PowerCut(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.cut {
		m.freeze()
	}
	s := m.state.clone()
	s.syncNames(picker(rng, len(s.pending)))
	s.pending = nil
	s.cached = map[string]*inode{".": s.durable["."]}
	for _, name := range sortedNames(s.durable) { // a parent sorts before what it holds
		if s.cached[path.Dir(name)] != nil {
			s.cached[name] = s.durable[name]
		}
	}
	s.durable = map[string]*inode{}
	s.used = 0
	seen := map[*inode]bool{}
	for _, name := range sortedNames(s.cached) {
		n := s.cached[name]
		s.durable[name] = n
		if seen[n] {
			continue
		}
		seen[n] = true
		n.name, n.links = name, 1
		n.powerCut(rng)
		if name != "." {
			s.used += pageSize + n.alloc.count()*pageSize
		}
	}
	return newMem(s)
}

// picker chooses how a power cut treats n changes in order: it keeps none, all, the first few, or
// each by the toss of a coin that is the same for all.
func picker(rng *rand.Rand, n int) func(i int) bool {
	switch rng.IntN(5) {
	case 0:
		return func(int) bool { return false }
	case 1:
		return func(int) bool { return true }
	case 2:
		first := rng.IntN(n + 1)
		return func(i int) bool { return i < first }
	}
	p := rng.Float64()
	return func(int) bool { return rng.Float64() < p }
}

// powerCut decides what is left of a file.
func (n *inode) powerCut(rng *rand.Rand) {
	if n.dir {
		return
	}
	pages := n.unsynced()
	pick, i := picker(rng, len(pages)*pageSize/SectorSize), 0
	for _, idx := range pages {
		n.writeSectors(idx, func(int64) bool { i++; return pick(i - 1) })
	}
	switch old, now := n.durableSize, n.size; {
	case rng.IntN(3) == 0:
		n.size = old
	case now > old && rng.IntN(2) == 0: // write-back moves the size on as it goes, page by page
		n.size = max(old, (old+rng.Int64N(now-old+1))/pageSize*pageSize)
	}
	if rng.IntN(2) == 0 {
		n.alloc = n.durAlloc.clone()
	}
	n.maps, n.open, n.dropped = nil, 0, nil
	n.dirty = map[int64]struct{}{}
	n.cached = map[int64]*page{}
	for idx, b := range n.durable {
		punched := !n.alloc.has(idx) && bytes.Equal(b, zeroPage)
		if punched || idx*pageSize >= n.size {
			delete(n.durable, idx)
			continue
		}
		buf := append([]byte(nil), b...)
		if end := n.size - idx*pageSize; end < pageSize {
			clear(buf[end:])
			n.durable[idx] = append([]byte(nil), buf...)
		}
		n.cached[idx] = &page{buf: buf}
		n.alloc.set(idx)
	}
	n.durableSize, n.durAlloc = n.size, n.alloc.clone()
}

// freeze stops the file system where it is: from here on every operation fails, and stores to the
// mappings change only the mappings. The caller holds the lock.
func (m *Mem) freeze() {
	m.cut = true
	for mp := range m.mapped {
		m.checkMapped(mp.node)
	}
	m.state = m.state.clone()
}

// clone copies the state without its handles and mappings.
func (s *memState) clone() *memState {
	c := &memState{cached: map[string]*inode{}, durable: map[string]*inode{}, total: s.total, nextID: s.nextID}
	copies := map[*inode]*inode{}
	// What is mapped is copied again until it held still: a page must not be taken from before a
	// store and another from after a later one.
	stable := stableMappings(s)
	get := func(n *inode) *inode {
		if n == nil {
			return nil
		}
		if copies[n] == nil {
			copies[n] = n.clone(stable)
		}
		return copies[n]
	}
	for name, n := range s.cached {
		c.cached[name] = get(n)
		if !n.dir {
			c.used += n.alloc.count() * pageSize
		}
		if name != "." {
			c.used += pageSize
		}
	}
	for name, n := range s.durable {
		c.durable[name] = get(n)
	}
	for _, op := range s.pending {
		nodes := make([]*inode, len(op.nodes))
		for i, n := range op.nodes {
			nodes[i] = get(n)
		}
		c.pending = append(c.pending, nameOp{op.names, nodes})
	}
	return c
}

// stableMappings copies all that is mapped, as it was at one moment.
func stableMappings(s *memState) map[*mapping][]byte {
	out := map[*mapping][]byte{}
	add := func(n *inode) {
		for _, mp := range n.maps {
			if out[mp] == nil {
				out[mp] = make([]byte, len(mp.buf))
			}
		}
	}
	for _, n := range s.cached {
		add(n)
	}
	for _, n := range s.durable {
		add(n)
	}
	for try := 0; try < 100; try++ {
		same := true
		for mp, b := range out {
			if !equalBytes(b, mp.buf) {
				same = false
				copyBytes(b, mp.buf)
			}
		}
		if same && try > 0 {
			break
		}
	}
	return out
}

func (n *inode) clone(stable map[*mapping][]byte) *inode {
	c := &inode{
		id: n.id, name: n.name, dir: n.dir, links: n.links, size: n.size, durableSize: n.durableSize,
		cached: map[int64]*page{}, durable: map[int64][]byte{}, dirty: map[int64]struct{}{},
		alloc: n.alloc.clone(), durAlloc: n.durAlloc.clone(),
	}
	for idx, p := range n.cached {
		buf := make([]byte, pageSize)
		if p.m != nil {
			copy(buf, stable[p.m][idx*pageSize-p.m.off:])
			c.dirty[idx] = struct{}{}
		} else {
			copy(buf, p.buf)
		}
		c.cached[idx] = &page{buf: buf}
	}
	for idx, b := range n.durable {
		c.durable[idx] = b
	}
	for idx := range n.dirty {
		c.dirty[idx] = struct{}{}
	}
	for idx, d := range n.dropped {
		if c.dropped == nil {
			c.dropped = map[int64]*droppedPage{}
		}
		c.dropped[idx] = d
	}
	return c
}

// writeBack now and then writes something back before anybody asked for it. The caller holds the
// lock.
func (m *Mem) writeBack() {
	if m.rng == nil || m.rng.IntN(4) != 0 {
		return
	}
	s := m.state
	if len(s.pending) > 0 && m.rng.IntN(4) == 0 {
		s.syncNames(picker(m.rng, len(s.pending)))
		return
	}
	names := sortedNames(s.cached)
	n := s.cached[names[m.rng.IntN(len(names))]]
	if n.dir {
		return
	}
	pages := n.unsynced()
	pick, i := picker(m.rng, len(pages)*pageSize/SectorSize), 0
	for _, idx := range pages {
		n.writeSectors(idx, func(int64) bool { i++; return pick(i - 1) })
	}
	if m.rng.IntN(2) == 0 {
		n.durableSize, n.durAlloc = n.size, n.alloc.clone()
	}
}

// DropDirty marks what is not durable in a file as clean, though it was not written: what Linux
// does when a write-back fails. A later Datasync then succeeds and saves nothing of it. For the
// hook of Inject, to call before it lets a Datasync fail.
func (m *Mem) DropDirty(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.state.cached[path.Clean(name)]; n != nil && !n.dir && !m.cut {
		n.drop()
	}
}

// Move makes every file durable and gives it another identity, as a copy of all of them on another
// disk has once that is synced. Nobody may have a file open.
func (m *Mem) Move() {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	s.syncNames(func(int) bool { return true })
	for _, name := range sortedNames(s.cached) {
		n := s.cached[name]
		n.sync()
		n.id = s.nextID
		s.nextID++
	}
}
