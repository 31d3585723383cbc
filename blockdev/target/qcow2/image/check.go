package image

import (
	"encoding/binary"
	"fmt"

	"varve/blockdev/target/qcow2/format"
)

// census is how often each host cluster is used, as the tables say.
type census struct {
	m      *Image
	pages  map[int64]*[pageClusters]uint32 // by cluster / pageClusters
	tables map[int64]string                // clusters of metadata, and what of
	l2     map[int64]uint32                // L2 tables, and how often they are named
	active []int64                         // those of the disk
	shared bool                            // some cluster is used more than once
	end    int64                           // behind the last cluster that is used
}

const pageClusters = 4096

func (c *census) count(cluster int64) uint32 {
	if p := c.pages[cluster/pageClusters]; p != nil {
		return p[cluster%pageClusters]
	}
	return 0
}

// add counts n uses of a cluster.
func (c *census) add(cluster int64, n uint32) {
	p := c.pages[cluster/pageClusters]
	if p == nil {
		p = new([pageClusters]uint32)
		c.pages[cluster/pageClusters] = p
	}
	p[cluster%pageClusters] += n
	c.shared = c.shared || p[cluster%pageClusters] > 1
	c.end = max(c.end, cluster+1)
}

// metadata counts length bytes at off, which nothing else may use.
func (c *census) metadata(what string, off, length int64) error {
	bits := c.m.head.ClusterBits
	for k := off >> bits; k <= (off+length-1)>>bits; k++ {
		if c.count(k) > 0 {
			return fmt.Errorf("%w: the %s at %d overlaps the %s", format.ErrDamaged, what, off, c.tables[k])
		}
		c.tables[k] = what
		c.add(k, 1)
	}
	return nil
}

// take counts everything.
func (c *census) take() error {
	m, h := c.m, &c.m.head
	if err := c.metadata("header", 0, h.ClusterSize()); err != nil {
		return err
	}
	if err := c.metadata("refcount table", h.RefTable, int64(h.RefClusters)<<h.ClusterBits); err != nil {
		return err
	}
	for _, e := range m.alloc.table {
		off, err := h.RefBlock(e, m.size.Load())
		if err == nil && off != 0 {
			err = c.metadata("refcount block", off, h.ClusterSize())
		}
		if err != nil {
			return err
		}
	}
	if err := c.names("L1 table", h.L1Offset, int64(h.L1Entries), true); err != nil {
		return err
	}
	if err := c.snapshots(); err != nil {
		return err
	}
	for off, n := range c.l2 {
		if err := c.metadata("L2 table", off, h.ClusterSize()); err != nil {
			return err
		}
		c.add(off>>h.ClusterBits, n-1)
	}
	for off, n := range c.l2 {
		if err := c.entries(off, n); err != nil {
			return err
		}
	}
	return c.checkCopied()
}

// names counts an L1 table, and the L2 tables that it names.
func (c *census) names(what string, off, n int64, active bool) error {
	h := &c.m.head
	if n == 0 {
		return nil
	}
	if err := c.metadata(what, off, n*8); err != nil {
		return err
	}
	for n > 0 {
		part := min(n, 1<<16)
		list, err := c.m.readL1(off, part)
		if err != nil {
			return err
		}
		for _, e := range list {
			table, _, err := h.L1(e, c.m.size.Load())
			if err != nil {
				return err
			}
			if table == 0 {
				continue
			}
			c.l2[table]++
			if active {
				c.active = append(c.active, table)
			}
		}
		off, n = off+part*8, n-part
	}
	return nil
}

// snapshots counts the snapshot table, and what the snapshots name.
func (c *census) snapshots() error {
	h, size := &c.m.head, c.m.size.Load()
	at := h.SnapshotTable
	for range h.Snapshots {
		b, err := c.m.read(at, min(format.MaxSnapshot, max(0, size-at)))
		if err != nil {
			return err
		}
		s, n, err := h.ParseSnapshot(b, size)
		if err != nil {
			return err
		}
		if err := c.names("L1 table of snapshot "+s.Name, s.L1Offset, int64(s.L1Entries), false); err != nil {
			return err
		}
		at += int64(n)
	}
	if h.Snapshots == 0 {
		return nil
	}
	return c.metadata("snapshot table", h.SnapshotTable, at-h.SnapshotTable)
}

// entries counts the clusters that an L2 table names, which is named n times itself.
func (c *census) entries(off int64, n uint32) error {
	h := &c.m.head
	t, err := c.m.read(off, h.ClusterSize())
	if err != nil {
		return err
	}
	for i := range h.L2Entries() {
		e := h.Entry(t, i)
		if err := h.Check(e, c.m.size.Load()); err != nil {
			return err
		}
		if !e.Compressed() && e.Host() == 0 {
			continue
		}
		hosts := c.m.hosts(e)
		for k := hosts.first; k < hosts.first+hosts.count; k++ {
			if what := c.tables[k]; what != "" {
				return fmt.Errorf("%w: the data cluster at %d overlaps the %s", format.ErrDamaged, k<<h.ClusterBits, what)
			}
			c.add(k, n)
		}
	}
	return nil
}

// checkCopied refuses entries of the disk that say that a cluster is theirs alone, and it is not.
func (c *census) checkCopied() error {
	h := &c.m.head
	if !c.shared {
		return nil
	}
	for _, l1 := range c.m.l1 {
		if off := int64(l1 &^ format.Copied); l1&format.Copied != 0 && c.count(off>>h.ClusterBits) != 1 {
			return fmt.Errorf("%w: the L2 table at %d is shared, and marked as not shared", format.ErrDamaged, off)
		}
	}
	for _, off := range c.active {
		t, err := c.m.read(off, h.ClusterSize())
		if err != nil {
			return err
		}
		for i := range h.L2Entries() {
			e := h.Entry(t, i)
			if e.InPlace() && c.count(e.Host()>>h.ClusterBits) != 1 {
				return fmt.Errorf("%w: the data cluster at %d is shared, and marked as not shared", format.ErrDamaged, e.Host())
			}
		}
	}
	return nil
}

// openForWriting checks everything that writes rely on, and repairs what a crash may leave.
func (m *Image) openForWriting() error {
	h := &m.head
	if h.Incompatible&format.Corrupt != 0 {
		return fmt.Errorf("%w: it is marked as corrupt; qemu-img check -r all may repair it, and a read-only device does without", format.ErrDamaged)
	}
	b, err := m.read(h.RefTable, int64(h.RefClusters)<<h.ClusterBits)
	if err != nil {
		return err
	}
	m.alloc.table, m.alloc.blocks = words(b), make(map[int64]*block)
	c := &census{
		m: m, pages: make(map[int64]*[pageClusters]uint32), tables: make(map[int64]string), l2: make(map[int64]uint32),
	}
	if err := c.take(); err != nil {
		return err
	}
	if err := m.extend(c.end); err != nil { // the last cluster may be cut off
		return err
	}
	m.alloc.mu.Lock()
	defer m.alloc.mu.Unlock()
	if err := c.repair(); err != nil {
		return err
	}
	if err := m.alloc.write(); err != nil {
		return err
	}
	if h.Incompatible&format.Dirty != 0 {
		h.Incompatible &^= format.Dirty
		err = m.putHeader(format.IncompatibleField, binary.BigEndian.AppendUint64(nil, h.Incompatible))
	}
	if err == nil && h.Autoclear != 0 { // what they say is not true any more after the first write
		h.Autoclear = 0
		err = m.putHeader(format.AutoclearField, make([]byte, 8))
	}
	if err != nil {
		return err
	}
	return m.file.Sync()
}

// repair makes the refcounts those of the census, in memory. Too large ones are leaks, which a crash
// leaves. Too small ones are damage, unless the image is marked as dirty: then whoever wrote it put
// them off.
func (c *census) repair() error {
	m, h := c.m, &c.m.head
	dirty := h.Incompatible&format.Dirty != 0
	if dirty {
		if err := c.addBlocks(); err != nil {
			return err
		}
	}
	per := h.PerBlock()
	if last := (c.end - 1) / per; last >= int64(len(m.alloc.table)) {
		return fmt.Errorf("%w: cluster %d is in use, and the refcount table ends before it", format.ErrDamaged, c.end-1)
	}
	for i, e := range m.alloc.table {
		if e == 0 {
			if used := c.used(int64(i)); used >= 0 {
				return c.tooSmall(used)
			}
			continue
		}
		b, err := m.alloc.block(int64(i))
		if err != nil {
			return err
		}
		for j := range per {
			want, have := uint64(c.count(int64(i)*per+j)), h.Refcount(b.b, j)
			switch {
			case have == want, have > want && h.OwnsMore:
				continue
			case have < want && !dirty:
				return c.tooSmall(int64(i)*per + j)
			case want > h.MaxRefcount():
				return fmt.Errorf("%w: cluster %d is used %d times", format.ErrDamaged, int64(i)*per+j, want)
			}
			h.PutRefcount(b.b, j, want)
			b.dirty = true
		}
	}
	return nil
}

func (c *census) tooSmall(cluster int64) error {
	return fmt.Errorf("%w: the cluster at %d is in use, and its refcount is too small; qemu-img check -r all may repair it",
		format.ErrDamaged, cluster<<c.m.head.ClusterBits)
}

// used returns a cluster that is used and counted by refcount block i, or -1.
func (c *census) used(i int64) int64 {
	per := c.m.head.PerBlock()
	for k := i * per; k < min((i+1)*per, c.end); k++ {
		if c.pages[k/pageClusters] == nil {
			k |= pageClusters - 1
		} else if c.count(k) > 0 {
			return k
		}
	}
	return -1
}

// addBlocks makes the refcount blocks that are missing, behind everything that is used.
func (c *census) addBlocks() error {
	m, h := c.m, &c.m.head
	for again := true; again; {
		again = false
		for i, e := range m.alloc.table {
			if e != 0 || c.used(int64(i)) < 0 {
				continue
			}
			cluster := c.end
			c.add(cluster, 1)
			if err := m.alloc.addBlock(int64(i), cluster, &block{b: make([]byte, h.ClusterSize()), dirty: true}, m); err != nil {
				return err
			}
			again = true
		}
	}
	return nil
}
