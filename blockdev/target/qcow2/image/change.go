package image

import (
	"fmt"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/qcow2/format"
)

// Change gives places to the clusters of one write. Until Commit or Abort nobody else changes where
// these clusters are.
type Change struct {
	image   *Image
	first   int64          // guest cluster
	entries []format.Entry // of it and those that follow, as they were
	items   []item
	ordered bool          // the data has to be durable before the entries are written
	done    chan struct{} // closed by Commit and Abort
}

// item is one guest cluster.
type item struct {
	cluster  int64
	old      format.Entry
	host     int64 // where its bytes go
	taken    bool  // the host cluster is a new one
	fresh    bool  // and reads as zeroes, durably
	from, to int   // grains that get a place
}

// Prepare gives a place to n bytes from off on, which the caller writes to the extents in order, all
// of them stored, before Commit. A nil Change: all have a place already. If another change has some of the
// clusters, Prepare does nothing and returns a channel that is closed when the caller may try again.
// The caller has entered. It may block for I/O, but not for another change.
func (m *Image) Prepare(off, n int64) (*Change, []Extent, <-chan struct{}, error) {
	if err := m.writable(); err != nil {
		return nil, nil, nil, err
	}
	c, busy, err := m.claim(off, n)
	if err != nil || busy != nil {
		return nil, nil, busy, err
	}
	for i := range c.items {
		if err := c.give(&c.items[i], off, n); err != nil {
			c.Abort()
			return nil, nil, nil, err
		}
	}
	extents := c.extents(off, n)
	if len(c.items) == 0 {
		c = nil
	}
	return c, extents, nil, nil
}

// claim claims the clusters that need a place.
func (m *Image) claim(off, n int64) (*Change, <-chan struct{}, error) {
	h := &m.head
	first, last := off>>h.ClusterBits, (off+n-1)>>h.ClusterBits
	if err := m.own(first/h.L2Entries(), last/h.L2Entries()); err != nil {
		return nil, nil, err
	}
	entries := make([]format.Entry, last-first+1)
	for {
		for i := range entries { // into memory, before mu is taken
			if _, err := m.entry(first+int64(i), true); err != nil {
				return nil, nil, err
			}
		}
		c, busy, ok := m.tryClaim(first, entries, func(cluster int64, e format.Entry) bool {
			from, to := m.grains(cluster, off, n)
			state, run := h.At(e, from)
			return state != format.Stored || !e.InPlace() || from+run < to
		})
		if ok || busy != nil {
			return c, busy, nil
		}
	}
}

// tryClaim claims those of the clusters that want it, unless one of all is claimed: busy ends then. It
// fills entries in.
// ok is false if a table is not in memory any more.
func (m *Image) tryClaim(first int64, entries []format.Entry, want func(int64, format.Entry) bool) (c *Change, busy <-chan struct{}, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := &m.head
	c = &Change{image: m, first: first, entries: entries, done: make(chan struct{})}
	for i := range entries {
		cluster := first + int64(i)
		if other := m.claims[cluster]; other != nil {
			return nil, other.done, false
		}
		var e format.Entry
		if l1 := m.l1[cluster/h.L2Entries()]; l1 != 0 {
			t, loaded := m.tables[int64(l1&^format.Copied)]
			if !loaded {
				return nil, nil, false
			}
			e = h.Entry(t, cluster%h.L2Entries())
		}
		entries[i] = e
		if want(cluster, e) {
			c.items = append(c.items, item{cluster: cluster, old: e})
		}
	}
	for i := range c.items {
		m.claims[c.items[i].cluster] = c
	}
	return c, nil, true
}

// within returns the part of a cluster that n bytes at off cover, in bytes from its start.
func (m *Image) within(cluster, off, n int64) (from, to int64) {
	start := cluster << m.head.ClusterBits
	return max(off, start) - start, min(off+n, start+m.head.ClusterSize()) - start
}

// grains returns the grains of a cluster that n bytes at off touch.
func (m *Image) grains(cluster, off, n int64) (from, to int) {
	lo, hi := m.within(cluster, off, n)
	size := m.head.GrainSize()
	return int(lo / size), int((hi + size - 1) / size)
}

// give finds a host cluster for an item, and copies what the write of n bytes at off leaves of the
// grains that it touches.
func (c *Change) give(it *item, off, n int64) error {
	m, h := c.image, &c.image.head
	lo, hi := m.within(it.cluster, off, n)
	it.from, it.to = m.grains(it.cluster, off, n)
	var err error
	if it.old.InPlace() { // never a compressed one
		it.host = it.old.Host()
	} else {
		if it.host, it.fresh, err = m.alloc.take(); err != nil {
			return err
		}
		it.taken = true
		if it.old.Compressed() || it.old.Host() != 0 { // others need all of the old one
			it.from, it.to = 0, h.Grains()
		}
	}
	empty := false
	if it.fresh {
		if empty, err = zero(m, it.cluster<<h.ClusterBits, h.ClusterSize()); err != nil {
			return err
		}
	}
	if empty { // as is the new one: nothing to copy, and no matter which of the two a crash leaves
		it.from, it.to = 0, h.Grains()
		return nil
	}
	c.ordered = true
	size := h.GrainSize()
	if state, _ := h.At(it.old, int(lo/size)); it.taken || state != format.Stored {
		if err := c.copy(it, int64(it.from)*size, lo); err != nil {
			return err
		}
	}
	if state, _ := h.At(it.old, int((hi-1)/size)); it.taken || state != format.Stored {
		return c.copy(it, hi, int64(it.to)*size)
	}
	return nil
}

// copySize is how many bytes are copied at once.
const copySize = 256 << 10

// copy copies a part of a guest cluster to where it will be.
func (c *Change) copy(it *item, from, to int64) error {
	if from >= to {
		return nil
	}
	m := c.image
	b := backing.Memory(int(min(copySize, to-from)))
	for from < to {
		p := b[:min(int64(len(b)), to-from)]
		if err := Read(m, p, it.cluster<<m.head.ClusterBits+from); err != nil {
			return fmt.Errorf("copy on write: %w", err)
		}
		if err := m.file.WriteAt(p, it.host+from); err != nil {
			return fmt.Errorf("copy on write: %w", err)
		}
		from += int64(len(p))
	}
	return nil
}

// extents returns where n bytes at off go.
func (c *Change) extents(off, n int64) []Extent {
	m, h := c.image, &c.image.head
	var list []Extent
	items := c.items
	for end := off + n; off < end; {
		cluster := off >> h.ClusterBits
		in := off - cluster<<h.ClusterBits
		e := Extent{Kind: Stored, Len: min(end-off, h.ClusterSize()-in), File: m.file}
		if len(items) > 0 && items[0].cluster == cluster {
			e.Off, items = items[0].host+in, items[1:]
		} else {
			e.Off = c.entries[cluster-c.first].Host() + in
		}
		if k := len(list) - 1; k >= 0 && list[k].Off+list[k].Len == e.Off {
			list[k].Len += e.Len
		} else {
			list = append(list, e)
		}
		off += e.Len
	}
	return list
}

// Commit makes the image name the new places. Afterwards the write outlives this process, and with
// Sync a power cut. After an error the old bytes are there. It may block for I/O.
func (c *Change) Commit() error {
	m, h := c.image, &c.image.head
	if c.ordered {
		if err := m.Sync(); err != nil {
			c.Abort()
			return err
		}
	}
	entries := make([]format.Entry, len(c.items))
	for i, it := range c.items {
		entries[i] = h.Grained(it.old, it.from, it.to, format.Stored, it.host)
	}
	return c.replace(entries)
}

// replace writes entries in the place of the items' old ones, frees the old clusters, and ends the
// change.
func (c *Change) replace(entries []format.Entry) error {
	m, h := c.image, &c.image.head
	m.meta.Lock()
	defer m.meta.Unlock()
	for i := 0; i < len(c.items); {
		table := c.items[i].cluster / h.L2Entries()
		k := i + 1
		for k < len(c.items) && c.items[k].cluster/h.L2Entries() == table {
			k++
		}
		if err := m.put(table, c.items[i:k], entries[i:k]); err != nil {
			c.release()
			return m.fail(err) // the file may have either
		}
		i = k
	}
	m.mu.Lock()
	for i, it := range c.items {
		if old := it.old; old.Compressed() || old.Host() != 0 && old.Host() != entries[i].Host() {
			m.epoch.freed = append(m.epoch.freed, m.hosts(old))
		}
	}
	m.mu.Unlock()
	c.release()
	return nil
}

// hosts returns the host clusters of an entry.
func (m *Image) hosts(e format.Entry) span {
	if !e.Compressed() {
		return span{e.Host() >> m.head.ClusterBits, 1}
	}
	c := m.head.Packed(e)
	first := c.Off >> m.head.ClusterBits
	return span{first, (c.Off+int64(c.Len)-1)>>m.head.ClusterBits - first + 1}
}

// Abort leaves everything as it was. Nothing of the write is in flight.
func (c *Change) Abort() {
	for _, it := range c.items {
		if it.taken {
			c.image.alloc.giveBack(it.host)
		}
	}
	c.release()
}

// release lets others have the clusters.
func (c *Change) release() {
	m := c.image
	m.mu.Lock()
	for _, it := range c.items {
		delete(m.claims, it.cluster)
	}
	m.mu.Unlock()
	close(c.done)
}
