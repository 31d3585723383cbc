package image

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/qcow2/format"
)

// allocator counts the uses of host clusters.
type allocator struct {
	image  *Image
	mu     sync.Mutex
	table  []uint64         // the refcount table
	blocks map[int64]*block // refcount blocks in memory, by index in the table
	hint   int64            // no cluster before it is free
	ready  []ready          // reserved: their refcount is durably one, and nobody uses them
}

// block is a refcount block.
type block struct {
	b     []byte
	dirty bool
}

// ready is a reserved cluster.
type ready struct {
	cluster int64
	fresh   bool // reads as zeroes, durably
}

const (
	reserveBytes = 8 << 20 // how much is reserved at once
	reserveMost  = 1024    // clusters
	punchSize    = 4096    // bytes; the space of smaller clusters is not given back to the file system
	maxBlocks    = 64      // in memory, beside those that are to be written
)

// take returns the offset of a free cluster, whose refcount is one now, durably.
func (a *allocator) take() (off int64, fresh bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.ready) == 0 {
		if err := a.reserve(); err != nil {
			return 0, false, err
		}
	}
	r := a.ready[0]
	a.ready = a.ready[1:]
	return r.cluster << a.image.head.ClusterBits, r.fresh, nil
}

// giveBack returns a cluster that was taken and is not named by anything. It may have been written.
func (a *allocator) giveBack(off int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ready = append(a.ready, ready{cluster: off >> a.image.head.ClusterBits})
}

// reserve finds free clusters and makes their refcounts durable.
func (a *allocator) reserve() error {
	m := a.image
	if err := m.writable(); err != nil {
		return err
	}
	want := int64(min(reserveMost, max(1, reserveBytes>>m.head.ClusterBits)))
	var found []int64
	size := m.size.Load()
	err := a.find(want, &found)
	if err == nil {
		err = a.write()
	}
	if err != nil {
		for _, c := range found { // nobody has seen them
			if b, berr := a.block(c / m.head.PerBlock()); berr == nil {
				m.head.PutRefcount(b.b, c%m.head.PerBlock(), 0)
				b.dirty = true
			}
			a.hint = min(a.hint, c)
		}
		return err
	}
	for _, c := range found {
		a.ready = append(a.ready, ready{c, c<<m.head.ClusterBits >= size})
	}
	return nil
}

// find sets the refcounts of free clusters to one, in memory, and makes the file large enough for
// them.
func (a *allocator) find(want int64, found *[]int64) error {
	h := &a.image.head
	per := h.PerBlock()
	for i := a.hint / per; int64(len(*found)) < want; i++ {
		if i<<h.ClusterBits*per >= 1<<55 {
			return fmt.Errorf("%s: %w: it has as many clusters as it can", a.image.file.Path(), unix.ENOSPC)
		}
		b, err := a.blockFor(i)
		if err != nil {
			return err
		}
		for j := max(0, a.hint-i*per); j < per && int64(len(*found)) < want; j++ {
			a.hint = i*per + j + 1
			if h.Refcount(b.b, j) != 0 {
				continue
			}
			h.PutRefcount(b.b, j, 1)
			b.dirty = true
			*found = append(*found, i*per+j)
		}
	}
	return a.image.extend((*found)[len(*found)-1] + 1)
}

// extend makes the file large enough for so many clusters.
func (m *Image) extend(clusters int64) error {
	end := clusters << m.head.ClusterBits
	if end <= m.size.Load() {
		return nil
	}
	if err := m.file.Truncate(end); err != nil {
		return fmt.Errorf("%s: make the image larger: %w", m.file.Path(), err)
	}
	m.size.Store(end)
	return nil
}

// block returns a refcount block that is there.
func (a *allocator) block(i int64) (*block, error) {
	if b := a.blocks[i]; b != nil {
		return b, nil
	}
	h := &a.image.head
	off, err := h.RefBlock(a.table[i], a.image.size.Load())
	if err != nil {
		return nil, err
	}
	data, err := a.image.read(off, h.ClusterSize())
	if err != nil {
		return nil, err
	}
	a.forget()
	b := &block{b: data}
	a.blocks[i] = b
	return b, nil
}

// forget makes room for a block in memory.
func (a *allocator) forget() {
	if len(a.blocks) < maxBlocks {
		return
	}
	for i, b := range a.blocks {
		if !b.dirty {
			delete(a.blocks, i)
			return
		}
	}
}

// blockFor returns a refcount block, which it makes if there is none.
func (a *allocator) blockFor(i int64) (*block, error) {
	m, h := a.image, &a.image.head
	if i >= int64(len(a.table)) {
		if err := a.grow(i); err != nil {
			return nil, err
		}
	}
	if a.table[i] != 0 {
		return a.block(i)
	}
	// All clusters that it counts are free: it is in the first of them.
	own := i * h.PerBlock()
	b := &block{b: make([]byte, h.ClusterSize())}
	h.PutRefcount(b.b, 0, 1)
	return b, a.addBlock(i, own, b, m)
}

// addBlock makes a cluster the refcount block of entry i: first its bytes are durable, then the entry
// is.
func (a *allocator) addBlock(i, cluster int64, b *block, m *Image) error {
	off := cluster << m.head.ClusterBits
	if err := m.extend(cluster + 1); err != nil {
		return err
	}
	if err := m.writePart(b.b, off, 0, int64(len(b.b))); err != nil {
		return err
	}
	if err := m.file.Sync(); err != nil {
		return m.fail(err)
	}
	a.table[i] = uint64(off)
	if err := a.putTable(i); err != nil {
		return m.fail(err)
	}
	a.forget()
	a.blocks[i] = b
	return nil
}

// putTable writes an entry of the refcount table, which is durable with the next sync.
func (a *allocator) putTable(i int64) error {
	b := make([]byte, len(a.table)*8)
	align := max(int64(a.image.file.OffAlign()), 512) / 8
	for k := i &^ (align - 1); k < min(int64(len(a.table)), i|(align-1)+1); k++ {
		binary.BigEndian.PutUint64(b[k*8:], a.table[k])
	}
	return a.image.writePart(b, a.image.head.RefTable, i*8, i*8+8)
}

// write makes the refcounts in memory durable.
func (a *allocator) write() error {
	m := a.image
	for i, b := range a.blocks {
		if !b.dirty {
			continue
		}
		if err := m.writePart(b.b, int64(a.table[i]), 0, int64(len(b.b))); err != nil {
			return err
		}
		b.dirty = false
	}
	released, err := m.settle()
	if err != nil {
		return err
	}
	return a.release(released)
}

// release lowers the refcounts of clusters that nothing names or uses any more. They may be lowered
// in the file at any later time.
func (a *allocator) release(list []span) error {
	m, h := a.image, &a.image.head
	for _, s := range list {
		for c := s.first; c < s.first+s.count; c++ {
			b, err := a.block(c / h.PerBlock())
			if err != nil {
				return err
			}
			v := h.Refcount(b.b, c%h.PerBlock())
			if v == 0 {
				return m.fail(fmt.Errorf("%w: cluster %d is freed twice", format.ErrDamaged, c))
			}
			h.PutRefcount(b.b, c%h.PerBlock(), v-1)
			b.dirty = true
			if v == 1 {
				a.hint = min(a.hint, c)
			}
			if v == 1 && h.ClusterSize() >= punchSize {
				_ = m.file.Discard(c<<h.ClusterBits, h.ClusterSize()) // its space; it may be used again without
			}
		}
	}
	return nil
}

// grow moves the refcount table to a larger place, such that it has entry i: behind everything that
// the present one counts, followed by the blocks that count the new place.
func (a *allocator) grow(i int64) error {
	m, h := a.image, &a.image.head
	if err := a.write(); err != nil { // the blocks that the new table will name
		return err
	}
	per := h.PerBlock()
	start := int64(len(a.table)) * per
	clusters := max(int64(h.RefClusters)*2, (i+2)*8>>h.ClusterBits+1)
	if clusters<<h.ClusterBits > max(format.MaxRefTable, h.ClusterSize()) {
		return fmt.Errorf("%s: %w: its refcount table is as large as it can be", m.file.Path(), unix.ENOSPC)
	}
	blocks := clusters/per + 1
	for blocks*per < clusters+blocks {
		blocks++
	}
	old := span{h.RefTable >> h.ClusterBits, int64(h.RefClusters)}
	table := make([]byte, clusters<<h.ClusterBits)
	next := slices.Concat(a.table, make([]uint64, clusters<<h.ClusterBits/8-int64(len(a.table))))
	for k := range blocks {
		next[int64(len(a.table))+k] = uint64(start+clusters+k) << h.ClusterBits
	}
	for k, e := range next {
		binary.BigEndian.PutUint64(table[k*8:], e)
	}
	if err := m.extend(start + clusters + blocks); err != nil {
		return err
	}
	fresh := make(map[int64]*block, blocks)
	for k := range blocks {
		b := &block{b: make([]byte, h.ClusterSize())}
		for c := range per {
			if k*per+c < clusters+blocks {
				h.PutRefcount(b.b, c, 1)
			}
		}
		if err := m.writePart(b.b, (start+clusters+k)<<h.ClusterBits, 0, int64(len(b.b))); err != nil {
			return err
		}
		fresh[int64(len(a.table))+k] = b
	}
	if err := m.writePart(table, start<<h.ClusterBits, 0, int64(len(table))); err != nil {
		return err
	}
	if err := m.file.Sync(); err != nil {
		return m.fail(err)
	}
	field := binary.BigEndian.AppendUint64(nil, uint64(start)<<h.ClusterBits)
	field = binary.BigEndian.AppendUint32(field, uint32(clusters))
	err := m.putHeader(format.RefTableField, field)
	if err == nil {
		err = m.file.Sync()
	}
	if err != nil {
		return m.fail(err)
	}
	a.table, h.RefTable, h.RefClusters = next, start<<h.ClusterBits, int(clusters)
	for k, b := range fresh {
		a.blocks[k] = b
	}
	return a.release([]span{old})
}

// close frees what is reserved, and makes the file as small as it may be.
func (a *allocator) close() error {
	m, h := a.image, &a.image.head
	a.mu.Lock()
	defer a.mu.Unlock()
	end := m.size.Load() >> h.ClusterBits
	slices.SortFunc(a.ready, func(x, y ready) int { return int(y.cluster - x.cluster) })
	for _, r := range a.ready {
		if err := a.release([]span{{r.cluster, 1}}); err != nil {
			return err
		}
		if r.cluster == end-1 {
			end--
		}
	}
	a.ready = nil
	if err := a.write(); err != nil {
		return err
	}
	if size := end << h.ClusterBits; size < m.size.Load() {
		_ = m.file.Truncate(size) // a block device, or a file system, may not
	}
	return nil
}
