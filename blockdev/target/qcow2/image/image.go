package image

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/qcow2/format"
)

// Image is an open image. Safe for concurrent use.
type Image struct {
	file     File
	head     format.Header
	backing  Layer // nil: none
	readOnly bool
	broken   atomic.Pointer[error] // why nothing is written any more
	size     atomic.Int64          // of the file, in bytes

	meta sync.Mutex // loads of tables, and writes of entries
	mu   sync.RWMutex
	l1   []uint64
	// tables are the L2 tables in memory, by offset. Their bytes change with both meta and mu held.
	tables map[int64][]byte
	claims map[int64]*Change // by guest cluster
	epoch  epochs

	alloc  allocator
	group  group
	wrote  atomic.Uint64 // how many entries were written
	synced atomic.Uint64 // how many of them are durable
}

// Options for Open.
type Options struct {
	ReadOnly bool
	Backing  Layer // of the file that Header.Backing names; nil: none
}

// ReadHeader reads the header of an image.
func ReadHeader(f File) (format.Header, error) {
	size, err := f.Measure()
	if err != nil {
		return format.Header{}, err
	}
	b, err := read(f, size, 0, format.HeaderSize)
	if err != nil {
		return format.Header{}, err
	}
	n, err := format.ClusterSize(b)
	if err == nil {
		b, err = read(f, size, 0, int64(n))
	}
	var h format.Header
	if err == nil {
		h, err = format.ParseHeader(b[:min(int64(n), size)], size)
	}
	if err != nil {
		return h, fmt.Errorf("%s: %w", f.Path(), err)
	}
	return h, nil
}

// read reads n bytes of a file of size bytes, beyond whose end are zeroes. The memory has what the
// file wants around it.
func read(f File, size, off, n int64) ([]byte, error) {
	align := int64(f.OffAlign())
	from, to := off&^(align-1), (off+n+align-1)&^(align-1)
	b := backing.Memory(int(to - from))
	if have := min(to, size&^(align-1)) - from; have > 0 {
		if err := f.ReadAt(b[:have], from); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
	}
	return b[off-from : off-from+n : off-from+n], nil
}

// Open opens an image. For writing it reads all tables, compares the refcounts with them, and repairs
// what a crash may leave; what else is wrong is format.ErrDamaged. The file stays the caller's, who
// closes it after Close.
func Open(f File, o Options) (*Image, error) {
	h, err := ReadHeader(f)
	if err != nil {
		return nil, err
	}
	m := &Image{
		file: f, head: h, backing: o.Backing, readOnly: o.ReadOnly,
		tables: make(map[int64][]byte), claims: make(map[int64]*Change),
	}
	m.alloc.image = m
	size, err := f.Measure()
	if err == nil {
		m.size.Store(size)
		m.l1, err = m.readL1(h.L1Offset, h.L1Needed())
	}
	if err == nil && !o.ReadOnly {
		err = m.openForWriting()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path(), err)
	}
	return m, nil
}

// Header returns the image's header as it was opened.
func (m *Image) Header() *format.Header { return &m.head }

// Size implements Layer.
func (m *Image) Size() int64 { return m.head.Size }

// readL1 reads the first n entries of an L1 table.
func (m *Image) readL1(off, n int64) ([]uint64, error) {
	b, err := m.read(off, n*8)
	if err != nil {
		return nil, err
	}
	return words(b), nil
}

func (m *Image) read(off, n int64) ([]byte, error) { return read(m.file, m.size.Load(), off, n) }

// fail makes the image refuse all writes from now on: its file may hold anything since an error.
func (m *Image) fail(err error) error {
	err = fmt.Errorf("%s: %w; it is not written any more", m.file.Path(), err)
	m.broken.CompareAndSwap(nil, &err)
	return *m.broken.Load()
}

// writable returns why the image can't be written.
func (m *Image) writable() error {
	if err := m.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Lookup implements Layer.
func (m *Image) Lookup(off, n int64, load bool) (Extent, error) {
	h := &m.head
	cluster := off >> h.ClusterBits
	e, err := m.entry(cluster, load)
	if err != nil {
		return Extent{}, err
	}
	in := off - cluster<<h.ClusterBits
	grain := in / h.GrainSize()
	state, run := h.At(e, int(grain))
	n = min(n, (grain+int64(run))*h.GrainSize()-in)
	switch state {
	case format.Stored:
		return stored(m.file, m.size.Load(), e.Host()+in, n), nil
	case format.Packaged:
		return Extent{Kind: Packed, Len: n, in: m, word: e.Word, skip: in}, nil
	case format.Zero:
	case format.Unallocated:
		if m.backing == nil || off >= m.backing.Size() {
			break
		}
		return m.backing.Lookup(off, min(n, m.backing.Size()-off), load)
	}
	return Extent{Kind: Zeroes, Len: n}, nil
}

// InPlace returns where up to n bytes from off on may be written without a Change, or false if they
// can't, or the table that says so is not in memory. It does no I/O.
func (m *Image) InPlace(off, n int64) (Extent, bool) {
	h := &m.head
	cluster := off >> h.ClusterBits
	e, err := m.entry(cluster, false)
	in := off - cluster<<h.ClusterBits
	grain := in / h.GrainSize()
	state, run := h.At(e, int(grain))
	if err != nil || state != format.Stored || !e.InPlace() || m.broken.Load() != nil {
		return Extent{}, false
	}
	return Extent{Kind: Stored, Len: min(n, (grain+int64(run))*h.GrainSize()-in), File: m.file, Off: e.Host() + in}, true
}

// entry returns the L2 entry of a guest cluster.
func (m *Image) entry(cluster int64, load bool) (format.Entry, error) {
	i, j := cluster/m.head.L2Entries(), cluster%m.head.L2Entries()
	for {
		m.mu.RLock()
		l1 := m.l1[i]
		off := int64(l1 &^ format.Copied)
		t, ok := m.tables[off]
		var e format.Entry
		if ok {
			e = m.head.Entry(t, j)
		}
		m.mu.RUnlock()
		switch {
		case ok || l1 == 0:
			return e, nil
		case !load:
			return e, ErrNotLoaded
		}
		m.meta.Lock()
		_, err := m.table(l1)
		m.meta.Unlock()
		if err != nil {
			return e, err
		}
	}
}

// cacheSize bounds the L2 tables in memory, in bytes.
const cacheSize = 32 << 20

// table returns the L2 table of an L1 entry, and keeps it in memory. The caller holds meta.
func (m *Image) table(l1 uint64) ([]byte, error) {
	off, _, err := m.head.L1(l1, m.size.Load())
	if err != nil {
		return nil, err
	}
	m.mu.RLock()
	t, ok := m.tables[off]
	m.mu.RUnlock()
	if ok {
		return t, nil
	}
	if t, err = m.read(off, m.head.ClusterSize()); err != nil {
		return nil, err
	}
	for i := range m.head.L2Entries() {
		if err := m.head.Check(m.head.Entry(t, i), m.size.Load()); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	m.keep(off, t)
	m.mu.Unlock()
	return t, nil
}

// keep puts an L2 table into memory, in the place of some other if there are many. The caller holds
// meta and mu.
func (m *Image) keep(off int64, t []byte) {
	for old := range m.tables {
		if len(m.tables) < max(8, int(cacheSize>>m.head.ClusterBits)) {
			break
		}
		delete(m.tables, old) // written through: nothing is lost
	}
	m.tables[off] = t
}
