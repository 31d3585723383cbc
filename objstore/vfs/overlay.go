package vfs

import (
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
)

// Overlay shows the files of a directory without changing them: all changes are kept in memory, and
// lost with the Overlay. Syncs do nothing, and Lock takes the shared lock of readers.
func Overlay(base *Dir) FS {
	return &overlay{base: base, nodes: map[string]*overlayNode{}, gone: map[string]bool{}}
}

type overlay struct {
	base  *Dir
	mu    sync.Mutex
	nodes map[string]*overlayNode // those that were opened or made
	gone  map[string]bool         // of the directory's own, removed
}

// node returns the file of a name. Under mu.
func (o *overlay) node(name string) (*overlayNode, error) {
	if n := o.nodes[name]; n != nil {
		return n, nil
	}
	if o.gone[name] {
		return nil, fail("open", name, os.ErrNotExist)
	}
	f, err := o.base.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	n := &overlayNode{name: name, base: f, below: fi.Size(), size: fi.Size(), pages: map[int64][]byte{}}
	o.nodes[name] = n
	return n, nil
}

func (o *overlay) open(n *overlayNode) File {
	n.users++
	return &overlayFile{overlayNode: n, fs: o}
}

func (o *overlay) Create(name string) (File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.node(name); err == nil {
		return nil, fail("create", name, os.ErrExist)
	}
	n := &overlayNode{name: name, changed: true, pages: map[int64][]byte{}}
	o.nodes[name] = n
	return o.open(n), nil
}

func (o *overlay) Open(name string) (File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.node(name)
	if err != nil {
		return nil, err
	}
	return o.open(n), nil
}

func (o *overlay) Remove(name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.node(name); err != nil {
		return err
	}
	o.drop(name)
	return nil
}

// drop takes a name away. Under mu.
func (o *overlay) drop(name string) {
	n := o.nodes[name]
	delete(o.nodes, name)
	o.gone[name] = true
	if n.removed = true; n.users == 0 {
		n.close()
	}
}

func (o *overlay) Rename(oldname, newname string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.node(oldname)
	if err != nil {
		return err
	}
	if o.nodes[newname] != nil {
		o.drop(newname)
	}
	delete(o.nodes, oldname)
	o.gone[oldname] = true
	n.changed = true
	o.nodes[newname] = n
	return nil
}

func (o *overlay) Mkdir(string) error { return nil }

func (o *overlay) List(name string) ([]string, error) {
	names, err := o.base.List(name)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	names = slices.DeleteFunc(names, func(n string) bool {
		full := path.Join(name, n)
		return o.gone[full] && o.nodes[full] == nil
	})
	for full := range o.nodes {
		if n := strings.TrimPrefix(full, path.Clean(name)+"/"); path.Dir(full) == path.Clean(name) && !slices.Contains(names, path.Base(n)) {
			names = append(names, path.Base(n))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (o *overlay) SyncDir(string) error                  { return nil }
func (o *overlay) Lock(name string) (io.Closer, error)   { return o.base.LockShared(name) }
func (o *overlay) Space() (total, free int64, err error) { return o.base.Space() }

func (o *overlay) Used(name string) (int64, error) {
	o.mu.Lock()
	n, gone := o.nodes[name], o.gone[name]
	o.mu.Unlock()
	if n == nil && gone {
		return 0, fail("stat", name, os.ErrNotExist)
	}
	if n != nil && n.base == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		return int64(len(n.pages)) * pageSize, nil
	}
	return o.base.Used(name)
}

// InMemory implements [FS]: what was not changed is read from the disk.
func (o *overlay) InMemory() bool { return false }

// overlayNode is a file: pages that were written over those of a file below.
type overlayNode struct {
	name    string
	base    *os.File // nil: it was made here
	users   int      // open files; guarded by the overlay's lock, as is all down to here
	changed bool
	removed bool

	mu    sync.Mutex
	below int64 // bytes of the base that still count
	size  int64
	pages map[int64][]byte // by number; nil: zeroes
	maps  map[int64][]byte // what was mapped, by offset; pages lie in it
}

// close closes the file below.
func (n *overlayNode) close() {
	if n.base != nil {
		_ = n.base.Close() // nothing was written
	}
}

// page reads a page into p. Under mu.
func (n *overlayNode) page(i int64, p []byte) error {
	b, ok := n.pages[i]
	clear(p[copy(p, b):])
	off := i * pageSize
	if ok || off >= n.below {
		return nil
	}
	_, err := n.base.ReadAt(p[:min(pageSize, n.below-off)], off)
	if err == io.EOF {
		err = nil
	}
	return err
}

// own returns a page to write to. Under mu.
func (n *overlayNode) own(i int64) ([]byte, error) {
	if b := n.pages[i]; b != nil {
		return b, nil
	}
	b := make([]byte, pageSize)
	if err := n.page(i, b); err != nil {
		return nil, err
	}
	n.pages[i] = b
	return b, nil
}

// overlayFile is an open file of an overlay.
type overlayFile struct {
	*overlayNode
	fs     *overlay
	closed sync.Once
}

func (f *overlayFile) Close() error {
	f.closed.Do(func() {
		f.fs.mu.Lock()
		defer f.fs.mu.Unlock()
		if f.users--; f.users > 0 || f.changed && !f.removed {
			return
		}
		f.close()
		if f.fs.nodes[f.name] == f.overlayNode {
			delete(f.fs.nodes, f.name) // as it was; the next one opens it again
		}
	})
	return nil
}

func (f *overlayFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := checkRange(off, int64(len(p))); err != nil {
		return 0, fail("read", f.name, err)
	}
	if len(f.pages) == 0 && f.base != nil && f.below == f.size {
		return f.base.ReadAt(p, off)
	}
	want := p
	if off >= f.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), f.size-off)]
	var b [pageSize]byte
	for done := 0; done < len(p); {
		at := off + int64(done)
		if err := f.page(at/pageSize, b[:]); err != nil {
			return done, err
		}
		done += copy(p[done:], b[at%pageSize:])
	}
	if len(p) < len(want) {
		return len(p), io.EOF
	}
	return len(p), nil
}

func (f *overlayFile) WriteAt(p []byte, off int64) (int, error) {
	if err := checkRange(off, int64(len(p))); err != nil {
		return 0, fail("write", f.name, err)
	}
	f.change()
	f.mu.Lock()
	defer f.mu.Unlock()
	for done := 0; done < len(p); {
		at := off + int64(done)
		b, err := f.own(at / pageSize)
		if err != nil {
			return done, err
		}
		done += copy(b[at%pageSize:], p[done:])
		f.size = max(f.size, off+int64(done))
	}
	return len(p), nil
}

// change keeps what is about to be written from being forgotten when the file is closed.
func (f *overlayFile) change() {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.changed = true
}

func (f *overlayFile) Size() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size, nil
}

func (f *overlayFile) Truncate(size int64) error {
	if size < 0 {
		return fail("truncate", f.name, os.ErrInvalid)
	}
	f.change()
	f.mu.Lock()
	defer f.mu.Unlock()
	if size < f.size {
		if err := f.zero(size, f.size); err != nil {
			return err
		}
		f.below = min(f.below, size)
	}
	f.size = size
	return nil
}

func (f *overlayFile) Allocate(off, length int64) error {
	if err := checkRange(off, length); err != nil {
		return fail("allocate", f.name, err)
	}
	f.change()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size = max(f.size, off+length)
	return nil
}

// Identity is that of the file below; one that was made here has none.
func (f *overlayFile) Identity() (Identity, error) {
	if f.base == nil {
		return Identity{}, nil
	}
	id, _, err := Identify(f.base)
	return id, err
}

func (f *overlayFile) Reserve(int64, int64) error { return nil }
func (f *overlayFile) Datasync() error            { return nil }

func (f *overlayFile) Punch(off, length int64) error {
	if err := checkRange(off, length); err != nil {
		return fail("punch", f.name, err)
	}
	f.change()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.zero(off, min(off+length, f.size))
}

// zero clears a range. Under mu.
func (f *overlayFile) zero(off, end int64) error {
	for off < end {
		if whole := off%pageSize == 0 && end-off >= pageSize; whole && f.pages[off/pageSize] == nil {
			f.pages[off/pageSize] = nil
			off += pageSize
			continue
		}
		b, err := f.own(off / pageSize)
		if err != nil {
			return err
		}
		n := min(pageSize-off%pageSize, end-off)
		clear(b[off%pageSize : off%pageSize+n])
		off += n
	}
	return nil
}

// Map returns memory that the file's pages lie in from then on.
func (f *overlayFile) Map(off int64, length int) ([]byte, error) {
	if err := checkRange(off, int64(length)); err != nil || off%pageSize != 0 {
		return nil, fail("mmap", f.name, os.ErrInvalid)
	}
	f.change()
	f.mu.Lock()
	defer f.mu.Unlock()
	if off+int64(length) > f.size {
		return nil, fail("mmap", f.name, os.ErrInvalid)
	}
	if b := f.maps[off]; len(b) >= length {
		return b[:length], nil
	}
	b := make([]byte, (length+pageSize-1)/pageSize*pageSize)
	for at := 0; at < len(b); at += pageSize {
		i := (off + int64(at)) / pageSize
		if err := f.page(i, b[at:at+pageSize]); err != nil {
			return nil, err
		}
		f.pages[i] = b[at : at+pageSize : at+pageSize]
	}
	if f.maps == nil {
		f.maps = map[int64][]byte{}
	}
	f.maps[off] = b
	return b[:length], nil
}

func (f *overlayFile) Unmap([]byte) error { return nil }

// Prefault does nothing: what Map returned is ordinary memory.
func (f *overlayFile) Prefault([]byte) {}
func (f *overlayFile) FD(int64) int    { return -1 }
