package vfs

import (
	"fmt"
	"io"
	iofs "io/fs"
	"syscall"
)

// memFile is an open file of a Mem.
type memFile struct {
	m      *Mem
	node   *inode
	name   string
	closed bool
}

// enter begins an operation on an open file. The caller holds the lock.
func (f *memFile) enter(op string, changes bool) error {
	if f.closed {
		return fail(op, f.name, iofs.ErrClosed)
	}
	if changes {
		return f.m.begin(op, f.name)
	}
	return f.m.look(op, f.name)
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.enter("read", false); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fail("read", f.name, iofs.ErrInvalid)
	}
	done := 0
	for done < len(p) && off < f.node.size {
		in := off % pageSize
		n := min(int64(len(p)-done), pageSize-in, f.node.size-off)
		if pg := f.node.cached[off/pageSize]; pg != nil {
			copyBytes(p[done:done+int(n)], pg.buf[in:])
		} else {
			clear(p[done : done+int(n)])
		}
		done, off = done+int(n), off+n
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if off < 0 || checkRange(off, int64(len(p))) != nil {
		return 0, fail("write", f.name, iofs.ErrInvalid)
	}
	if !f.closed && !f.m.cut && f.m.cutAt >= 0 && f.m.ops >= f.m.cutAt && f.m.rng != nil && len(p) > 0 {
		// The write during which the cut comes has reached some page. No error is returned.
		cutoff := (off + f.m.rng.Int64N(int64(len(p)))) / pageSize * pageSize
		if cutoff > off {
			f.write(p[:cutoff-off], off)
		}
	}
	if err := f.enter("write", true); err != nil {
		return 0, err
	}
	n := f.write(p, off)
	if n < len(p) {
		return n, fail("write", f.name, syscall.ENOSPC)
	}
	return n, nil
}

// write copies to the page cache as much as there is room for.
func (f *memFile) write(p []byte, off int64) int {
	done := 0
	for done < len(p) {
		if !f.m.state.room(f.node, off/pageSize) {
			break
		}
		pg := f.node.touch(off / pageSize)
		copyBytes(pg.buf[off%pageSize:], p[done:min(len(p), done+int(pageSize-off%pageSize))])
		n := min(int64(len(p)-done), pageSize-off%pageSize)
		done, off = done+int(n), off+n
		f.node.size = max(f.node.size, off)
	}
	return done
}

// room allocates one page of a file; false if the disk is full.
func (s *memState) room(n *inode, idx int64) bool {
	if n.alloc.has(idx) {
		return true
	}
	if s.used+pageSize > s.total {
		return false
	}
	s.used += pageSize
	n.alloc.set(idx)
	return true
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.enter("stat", false); err != nil {
		return 0, err
	}
	return f.node.size, nil
}

// Identity is of the inode, which a crash keeps and a copy does not have.
func (f *memFile) Identity() (Identity, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.enter("identify", false); err != nil {
		return Identity{}, err
	}
	return Identity{Inode: uint64(f.node.id), Generation: 1, Birth: int64(f.node.id)}, nil
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.enter("truncate", true); err != nil {
		return err
	}
	if size < 0 {
		return fail("truncate", f.name, iofs.ErrInvalid)
	}
	if size < f.node.size {
		f.node.zero(size, f.node.size)
		f.m.state.free(f.node, (size+pageSize-1)/pageSize, int64(len(f.node.alloc))*64)
	}
	f.node.size = size
	return nil
}

// free frees the space of the pages [from, to).
func (s *memState) free(n *inode, from, to int64) {
	for idx := from; idx < to; idx++ {
		if n.alloc.has(idx) {
			n.alloc.clear(idx)
			s.used -= pageSize
		}
	}
}

func (f *memFile) Allocate(off, length int64) error { return f.allocate("allocate", off, length, true) }

func (f *memFile) Reserve(off, length int64) error { return f.allocate("reserve", off, length, false) }

func (f *memFile) allocate(op string, off, length int64, grow bool) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.enter(op, true); err != nil {
		return err
	}
	if err := checkRange(off, length); err != nil {
		return fail(op, f.name, err)
	}
	if length == 0 {
		return nil
	}
	for idx := off / pageSize; idx <= (off+length-1)/pageSize; idx++ {
		if !f.m.state.room(f.node, idx) {
			return fail(op, f.name, syscall.ENOSPC) // with a part of it allocated, as ext4 may do
		}
	}
	if grow {
		f.node.size = max(f.node.size, off+length)
	}
	return nil
}

func (f *memFile) Punch(off, length int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.enter("punch", true); err != nil {
		return err
	}
	if err := checkRange(off, length); err != nil {
		return fail("punch", f.name, err)
	}
	f.node.zero(off, min(off+length, f.node.size))
	last := (off + length) / pageSize
	if off+length >= f.node.size {
		last = (off + length + pageSize - 1) / pageSize
	}
	f.m.state.free(f.node, (off+pageSize-1)/pageSize, last)
	return nil
}

func (f *memFile) Datasync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.enter("fdatasync", true); err != nil {
		return err
	}
	f.m.checkMapped(f.node)
	f.node.sync()
	return nil
}

// checkMapped finds stores to pages of a mapping that have no room on the disk. They get it now; on
// a full disk the store would have died of SIGBUS, which a test must see.
func (m *Mem) checkMapped(n *inode) {
	for _, mp := range n.maps {
		for i := 0; i < len(mp.buf); i += pageSize {
			idx := (mp.off + int64(i)) / pageSize
			if n.alloc.has(idx) || equalBytes(mp.buf[i:i+pageSize], zeroPage) {
				continue
			}
			if !m.state.room(n, idx) {
				panic(fmt.Sprintf("vfs: SIGBUS: a store to a mapping of %s at byte %d, which has no room on the full disk", n.name, idx*pageSize))
			}
		}
	}
}

// Map returns the cache's own bytes. Mappings of one file may lie inside one another, not overlap
// otherwise.
func (f *memFile) Map(off int64, length int) ([]byte, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.enter("mmap", false); err != nil {
		return nil, err
	}
	if off < 0 || off%pageSize != 0 || length <= 0 || off+int64(length) > f.node.size {
		return nil, fail("mmap", f.name, iofs.ErrInvalid)
	}
	first, last := off/pageSize, (off+int64(length)-1)/pageSize
	for idx := first; idx <= last; idx++ {
		if p := f.node.cached[idx]; p != nil && p.m != nil {
			return f.mapInside(p.m, off, length)
		}
	}
	mp := &mapping{node: f.node, off: off, buf: make([]byte, (last-first+1)*pageSize), refs: 1}
	for idx := first; idx <= last; idx++ {
		buf := mp.buf[(idx-first)*pageSize : (idx-first+1)*pageSize : (idx-first+1)*pageSize]
		if p := f.node.cached[idx]; p != nil {
			copy(buf, p.buf)
		}
		f.node.cached[idx] = &page{buf: buf, m: mp}
	}
	f.node.maps = append(f.node.maps, mp)
	f.m.mapped[mp] = struct{}{}
	return mp.buf[:length:length], nil
}

func (f *memFile) mapInside(mp *mapping, off int64, length int) ([]byte, error) {
	if off < mp.off || off+int64(length) > mp.off+int64(len(mp.buf)) {
		return nil, fail("mmap", f.name, fmt.Errorf("overlaps another mapping: %w", iofs.ErrInvalid))
	}
	mp.refs++
	i := off - mp.off
	return mp.buf[i : i+int64(length) : i+int64(length)], nil
}

// Unmap works after a cut and after Close too. The bytes stay where they are: a store after it is
// lost on nobody but the one who made it, as it would be a SIGSEGV with a real file.
func (f *memFile) Unmap(b []byte) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for i, mp := range f.node.maps {
		if !inside(mp.buf, b) {
			continue
		}
		if mp.refs--; mp.refs > 0 {
			return nil
		}
		f.node.maps = append(f.node.maps[:i:i], f.node.maps[i+1:]...)
		delete(f.m.mapped, mp)
		for j := 0; j < len(mp.buf); j += pageSize {
			idx := (mp.off + int64(j)) / pageSize
			if p := f.node.cached[idx]; p != nil && p.m == mp {
				buf := make([]byte, pageSize)
				copyBytes(buf, p.buf)
				f.node.cached[idx] = &page{buf: buf}
				f.node.dirty[idx] = struct{}{}
			}
		}
		return nil
	}
	return fail("munmap", f.name, iofs.ErrInvalid)
}

// Prefault does nothing: what Map returned is ordinary memory.
func (f *memFile) Prefault([]byte) {}

// inside reports whether b is a part of buf's memory.
func inside(buf, b []byte) bool {
	for i := 0; len(b) > 0 && i < len(buf); i += pageSize {
		if &buf[i] == &b[0] {
			return true
		}
	}
	return false
}

func (f *memFile) FD(int64) int { return -1 }

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return fail("close", f.name, iofs.ErrClosed)
	}
	f.closed = true
	if f.node.open--; !f.m.cut {
		f.m.state.release(f.node)
	}
	return nil
}
