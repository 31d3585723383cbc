package vfs

import (
	"bytes"
	"fmt"
	"math/bits"
	"sort"
)

// inode is a file, or a directory, of a Mem: its bytes in the page cache and on the disk.
type inode struct {
	id    int
	name  string // the last one, for messages
	dir   bool
	links int // names
	open  int // handles

	size, durableSize int64
	cached            map[int64]*page  // by page number; no entry reads as zeroes
	durable           map[int64][]byte // whole pages, never changed in place, so that copies share them
	dirty             map[int64]struct{}
	alloc, durAlloc   bitset                 // pages that have room on the disk
	maps              []*mapping             // what is mapped; their pages may be dirty at any time
	dropped           map[int64]*droppedPage // what a failed sync gave up on
}

// page is a page of the cache. While it is mapped its bytes are a part of the mapping's, and still
// are after the unmapping.
type page struct {
	buf []byte
	m   *mapping // nil: not mapped
}

type mapping struct {
	node *inode
	off  int64
	buf  []byte
	refs int
}

// droppedPage is a page as it was when a failed sync marked it clean without having written it.
type droppedPage [pageSize]byte

func (n *inode) String() string {
	kind := "file"
	if n.dir {
		kind = "dir "
	}
	return fmt.Sprintf("%s %-40s size %d (durable %d) allocated %d", kind, n.name, n.size, n.durableSize, n.alloc.count()*pageSize)
}

// touch returns a page for writing.
func (n *inode) touch(idx int64) *page {
	p := n.cached[idx]
	if p == nil {
		p = &page{buf: make([]byte, pageSize)}
		n.cached[idx] = p
	}
	n.dirty[idx] = struct{}{}
	delete(n.dropped, idx)
	return p
}

// zero clears a range, and drops the pages that it covers entirely and that nobody has mapped.
func (n *inode) zero(off, end int64) {
	for _, idx := range sortedPages(n.cached) {
		lo, hi := max(off, idx*pageSize), min(end, (idx+1)*pageSize)
		if lo >= hi {
			continue
		}
		p := n.cached[idx]
		n.dirty[idx] = struct{}{}
		if hi-lo == pageSize && p.m == nil {
			delete(n.cached, idx)
		} else {
			clearBytes(p.buf[lo-idx*pageSize : hi-idx*pageSize])
		}
	}
}

// unsynced lists the pages that may differ from the disk, in order.
func (n *inode) unsynced() []int64 {
	set := map[int64]struct{}{}
	for idx := range n.dirty {
		set[idx] = struct{}{}
	}
	for _, m := range n.maps {
		for idx := m.off / pageSize; idx < (m.off+int64(len(m.buf))+pageSize-1)/pageSize; idx++ {
			set[idx] = struct{}{}
		}
	}
	return sortedPages(set)
}

// writeSectors makes those sectors of a page durable that want picks, of those that differ.
func (n *inode) writeSectors(idx int64, want func(off int64) bool) {
	now := make([]byte, pageSize)
	if p := n.cached[idx]; p != nil {
		copyBytes(now, p.buf)
	}
	old := n.durable[idx]
	if old == nil {
		old = zeroPage
	}
	if bytes.Equal(now, old) {
		return
	}
	out := bytes.Clone(old)
	for s := int64(0); s < pageSize; s += SectorSize {
		sector := now[s : s+SectorSize]
		if bytes.Equal(sector, old[s:s+SectorSize]) {
			continue
		}
		if d := n.dropped[idx]; d != nil && bytes.Equal(sector, d[s:s+SectorSize]) {
			continue
		}
		if want(idx*pageSize + s) {
			copy(out[s:], sector)
		}
	}
	n.durable[idx] = out
}

var zeroPage = make([]byte, pageSize)

func everySector(int64) bool { return true }

// sync makes all of the file durable.
func (n *inode) sync() {
	for _, idx := range n.unsynced() {
		n.writeSectors(idx, everySector)
	}
	clear(n.dirty)
	n.durableSize = n.size
	n.durAlloc = n.alloc.clone()
}

// drop marks what is not durable as clean, as Linux does with pages whose write-back failed: no
// later sync writes them unless they are changed again.
func (n *inode) drop() {
	for _, idx := range n.unsynced() {
		d := &droppedPage{}
		if p := n.cached[idx]; p != nil {
			copyBytes(d[:], p.buf)
		}
		if n.dropped == nil {
			n.dropped = map[int64]*droppedPage{}
		}
		n.dropped[idx] = d
	}
}

// bitset of page numbers.
type bitset []uint64

func (b bitset) has(i int64) bool { return i/64 < int64(len(b)) && b[i/64]>>(i%64)&1 == 1 }

func (b *bitset) set(i int64) {
	for int64(len(*b)) <= i/64 {
		*b = append(*b, 0)
	}
	(*b)[i/64] |= 1 << (i % 64)
}

func (b bitset) clear(i int64) {
	if i/64 < int64(len(b)) {
		b[i/64] &^= 1 << (i % 64)
	}
}

func (b bitset) count() int64 {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return int64(n)
}

func (b bitset) clone() bitset { return append(bitset(nil), b...) }

func sortedPages[V any](m map[int64]V) []int64 {
	list := make([]int64, 0, len(m))
	for idx := range m {
		list = append(list, idx)
	}
	sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
	return list
}

func sortedNames(m map[string]*inode) []string {
	list := make([]string, 0, len(m))
	for name := range m {
		list = append(list, name)
	}
	sort.Strings(list)
	return list
}
