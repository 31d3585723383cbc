package image

import (
	"context"

	"varve/blockdev/target/qcow2/format"
)

// Zero makes a range of the disk read as zeroes. keep: where it has space it keeps that. It may block
// for I/O, and until other changes have ended, but not after ctx has.
func (m *Image) Zero(ctx context.Context, off, n int64, keep bool) error {
	if err := m.writable(); err != nil {
		return err
	}
	e := m.Enter()
	defer m.Leave(e)
	size := m.head.GrainSize()
	end := off + n
	from, to := (off+size-1)&^(size-1), end&^(size-1)
	if end == m.Size() {
		to = (end + size - 1) &^ (size - 1) // nothing is behind it
	}
	if from >= to || m.head.Version == 2 && m.backing != nil {
		return m.zeroPart(ctx, off, end, keep)
	}
	if err := m.zeroPart(ctx, off, from, keep); err != nil {
		return err
	}
	for from < to { // a table at a time
		table := m.head.L2Entries() << m.head.ClusterBits
		next := min(to, from-from%table+table)
		if err := m.zeroGrains(ctx, from, next-from, keep); err != nil {
			return err
		}
		from = next
	}
	return m.zeroPart(ctx, to, end, keep)
}

// zeroGrains zeroes whole grains, whose clusters are in one table.
func (m *Image) zeroGrains(ctx context.Context, off, n int64, keep bool) error {
	h := &m.head
	first, last := off>>h.ClusterBits, (off+n-1)>>h.ClusterBits
	if done, err := zero(m, off, min(n, h.Size-off)); err != nil || done && m.bare(first, last) {
		return err
	}
	if err := m.own(first/h.L2Entries(), first/h.L2Entries()); err != nil {
		return err
	}
	entries := make([]format.Entry, last-first+1)
	for {
		if _, err := m.entry(first, true); err != nil {
			return err
		}
		c, busy, ok := m.tryClaim(first, entries, func(int64, format.Entry) bool { return true })
		switch {
		case busy != nil:
			if err := wait(ctx, busy); err != nil {
				return err
			}
			continue
		case !ok:
			continue
		}
		var parts []int64 // clusters that have to be written
		for i, it := range c.items {
			from, to := m.grains(it.cluster, off, n)
			whole := from == 0 && to == h.Grains()
			switch old := it.old; {
			case whole && keep && old.InPlace() && h.Version == 3:
				entries[i] = h.Grained(old, from, to, format.Zero, old.Host())
			case whole && (h.Version == 2 || m.backing == nil):
				entries[i] = format.Entry{}
			case whole || !old.Compressed() && old.Host() == 0:
				entries[i] = h.Grained(old, from, to, format.Zero, 0)
			case old.InPlace():
				entries[i] = h.Grained(old, from, to, format.Zero, old.Host())
			default: // a part of a cluster that is compressed or shared
				entries[i] = old
				parts = append(parts, it.cluster)
			}
		}
		if err := c.replaceSome(entries); err != nil {
			return err
		}
		for _, cluster := range parts {
			from, to := m.within(cluster, off, n)
			start := cluster << h.ClusterBits
			if err := m.zeroPart(ctx, start+from, start+to, keep); err != nil {
				return err
			}
		}
		return nil
	}
}

// bare reports whether clusters have no host clusters to free.
func (m *Image) bare(first, last int64) bool {
	for c := first; c <= last; c++ {
		if e, err := m.entry(c, true); err != nil || e.Compressed() || e.Host() != 0 {
			return false
		}
	}
	return true
}

// replaceSome is replace for the items whose entries change.
func (c *Change) replaceSome(entries []format.Entry) error {
	all := c.items
	c.items = nil
	var changed []format.Entry
	m := c.image
	m.mu.Lock()
	for i, it := range all {
		if entries[i] != it.old {
			c.items, changed = append(c.items, it), append(changed, entries[i])
		} else {
			delete(m.claims, it.cluster)
		}
	}
	m.mu.Unlock()
	return c.replace(changed)
}

// zeroPart writes zeroes from off to end, where there are none.
func (m *Image) zeroPart(ctx context.Context, off, end int64, keep bool) error {
	for end = min(end, m.Size()); off < end; {
		e, err := m.Lookup(off, end-off, true)
		if err != nil {
			return err
		}
		if e.Kind != Zeroes {
			if err := m.writeZeroes(ctx, off, e.Len, keep); err != nil {
				return err
			}
		}
		off += e.Len
	}
	return nil
}

// writeZeroes writes n bytes of zeroes at off.
func (m *Image) writeZeroes(ctx context.Context, off, n int64, keep bool) error {
	for {
		c, extents, busy, err := m.Prepare(off, n)
		if err != nil {
			return err
		}
		if busy != nil {
			if err := wait(ctx, busy); err != nil {
				return err
			}
			continue
		}
		for _, e := range extents {
			if err := m.file.Zero(e.Off, e.Len, keep); err != nil {
				if c != nil {
					c.Abort()
				}
				return err
			}
		}
		if c == nil {
			return nil
		}
		return c.Commit()
	}
}

func wait(ctx context.Context, busy <-chan struct{}) error {
	select {
	case <-busy:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
