package vfs

import (
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"path"
	"sort"
	"strings"
	"sync"
	"syscall"
)

const pageSize = 4096

// Mem is a file system in memory that knows what a power cut would leave of it.
//
// It counts the operations that change something (all but reads, and stores to a mapping, which it
// can't see). After CutAt(n), the operation of number n and everything that follows, reads
// included, fails with ErrCut: the state is frozen there, and PowerCut and Kill make a new Mem from
// it.
type Mem struct {
	mu     sync.Mutex
	state  *memState
	rng    *rand.Rand // nil: nothing is written back before it is synced
	ops    int64
	cutAt  int64 // -1: never
	cut    bool
	locks  map[string]bool
	mapped map[*mapping]struct{}
}

// memState is what is on the disk and in the page cache.
type memState struct {
	cached  map[string]*inode // names as the running system sees them; "." is the root
	durable map[string]*inode // names that a power cut keeps for certain
	pending []nameOp          // what makes cached out of durable, in order
	total   int64             // bytes
	used    int64             // bytes in allocated pages and inodes
	nextID  int
}

// nameOp is one atomic change of names: a created, removed or renamed entry.
type nameOp struct {
	names []string
	nodes []*inode // nil: the name goes
}

// NewMem makes an empty file system of 1 TiB. A seed that is not 0 makes the page cache write
// random sectors, sizes and names back to the disk before they are synced, as the kernel does; such
// a disk holds states that were neither the last synced nor the last written one.
func NewMem(seed int64) *Mem {
	root := &inode{dir: true, name: "."}
	m := newMem(&memState{
		cached:  map[string]*inode{".": root},
		durable: map[string]*inode{".": root},
		total:   1 << 40,
		nextID:  1,
	})
	m.SetSeed(seed)
	return m
}

func newMem(s *memState) *Mem {
	return &Mem{state: s, cutAt: -1, locks: map[string]bool{}, mapped: map[*mapping]struct{}{}}
}

// SetSeed changes the seed of the early write-back; 0 stops it.
func (m *Mem) SetSeed(seed int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rng = nil
	if seed != 0 {
		m.rng = rand.New(rand.NewPCG(uint64(seed), 1))
	}
}

// SetSpace makes the file system total bytes large. It may be less than is used.
func (m *Mem) SetSpace(total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.total = total
}

// Ops counts the operations so far.
func (m *Mem) Ops() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ops
}

// CutAt lets operation n, counted from 0 at the making of the Mem, and all after it fail with
// ErrCut. -1 takes a cut back that was not reached yet.
func (m *Mem) CutAt(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cutAt = n
}

// WasCut reports whether an operation met the cut.
func (m *Mem) WasCut() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cut
}

// begin enters an operation that changes something: it counts it, and cuts if its number has come.
// The caller holds the lock.
func (m *Mem) begin(op, name string) error {
	if m.cut {
		return &iofs.PathError{Op: op, Path: name, Err: ErrCut}
	}
	if m.cutAt >= 0 && m.ops >= m.cutAt {
		m.freeze()
		return &iofs.PathError{Op: op, Path: name, Err: ErrCut}
	}
	m.ops++
	m.writeBack()
	return nil
}

// look enters an operation that changes nothing. The caller holds the lock.
func (m *Mem) look(op, name string) error {
	if m.cut {
		return &iofs.PathError{Op: op, Path: name, Err: ErrCut}
	}
	return nil
}

func fail(op, name string, err error) error { return &iofs.PathError{Op: op, Path: name, Err: err} }

// clean returns the one form of a name in the maps.
func clean(op, name string) (string, error) {
	if !iofs.ValidPath(path.Clean(name)) {
		return "", fail(op, name, iofs.ErrInvalid)
	}
	return path.Clean(name), nil
}

// parent fails unless the directory that the name lies in is there.
func (s *memState) parent(op, name string) error {
	d := s.cached[path.Dir(name)]
	switch {
	case d == nil:
		return fail(op, name, syscall.ENOENT)
	case !d.dir:
		return fail(op, name, syscall.ENOTDIR)
	}
	return nil
}

// link makes one change of names, which is in the page cache at once.
func (s *memState) link(op nameOp) {
	op.apply(s.cached)
	s.pending = append(s.pending, op)
}

func (op nameOp) apply(names map[string]*inode) {
	for i, name := range op.names {
		if op.nodes[i] == nil {
			delete(names, name)
		} else {
			names[name] = op.nodes[i]
		}
	}
}

// make adds a new file or directory. Each costs a page, so that a full disk refuses it.
func (s *memState) make(op, name string, dir bool) (*inode, error) {
	if err := s.parent(op, name); err != nil {
		return nil, err
	}
	if s.used+pageSize > s.total {
		return nil, fail(op, name, syscall.ENOSPC)
	}
	s.used += pageSize
	n := &inode{id: s.nextID, name: name, dir: dir, links: 1, cached: map[int64]*page{}, durable: map[int64][]byte{}, dirty: map[int64]struct{}{}}
	s.nextID++
	s.link(nameOp{[]string{name}, []*inode{n}})
	return n, nil
}

// unlink frees a file's space when its last name and its last handle are gone.
func (s *memState) unlink(n *inode) {
	n.links--
	s.release(n)
}

func (s *memState) release(n *inode) {
	if n.links == 0 && n.open == 0 {
		s.used -= pageSize + n.alloc.count()*pageSize
	}
}

// Create as FS says.
func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, err := clean("create", name)
	if err != nil {
		return nil, err
	}
	if err := m.begin("create", name); err != nil {
		return nil, err
	}
	if m.state.cached[name] != nil {
		return nil, fail("create", name, syscall.EEXIST)
	}
	n, err := m.state.make("create", name, false)
	if err != nil {
		return nil, err
	}
	n.open++
	return &memFile{m: m, node: n, name: name}, nil
}

// Open as FS says.
func (m *Mem) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, err := clean("open", name)
	if err != nil {
		return nil, err
	}
	if err := m.look("open", name); err != nil {
		return nil, err
	}
	n := m.state.cached[name]
	if n == nil {
		return nil, fail("open", name, syscall.ENOENT)
	}
	if n.dir {
		return nil, fail("open", name, syscall.EISDIR)
	}
	n.open++
	return &memFile{m: m, node: n, name: name}, nil
}

// Remove as FS says; a directory must be empty.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, err := clean("remove", name)
	if err != nil {
		return err
	}
	if err := m.begin("remove", name); err != nil {
		return err
	}
	n := m.state.cached[name]
	if n == nil || name == "." {
		return fail("remove", name, syscall.ENOENT)
	}
	if n.dir && len(m.state.entries(name)) > 0 {
		return fail("remove", name, syscall.ENOTEMPTY)
	}
	m.state.link(nameOp{[]string{name}, []*inode{nil}})
	m.state.unlink(n)
	return nil
}

// Rename as FS says; files only.
func (m *Mem) Rename(oldname, newname string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	oldname, err := clean("rename", oldname)
	if err != nil {
		return err
	}
	newname, err = clean("rename", newname)
	if err != nil {
		return err
	}
	if err := m.begin("rename", oldname); err != nil {
		return err
	}
	s := m.state
	n, old := s.cached[oldname], s.cached[newname]
	if n == nil {
		return fail("rename", oldname, syscall.ENOENT)
	}
	if n.dir || (old != nil && old.dir) {
		return fail("rename", oldname, syscall.EISDIR)
	}
	if err := s.parent("rename", newname); err != nil {
		return err
	}
	if n == old {
		return nil
	}
	n.name = newname
	s.link(nameOp{[]string{oldname, newname}, []*inode{nil, n}})
	if old != nil {
		s.unlink(old)
	}
	return nil
}

// Mkdir as FS says. The new entries are durable after SyncDir on the directories that hold them.
func (m *Mem) Mkdir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, err := clean("mkdir", name)
	if err != nil {
		return err
	}
	if err := m.begin("mkdir", name); err != nil {
		return err
	}
	var missing []string
	for p := name; m.state.cached[p] == nil; p = path.Dir(p) {
		missing = append(missing, p)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if _, err := m.state.make("mkdir", missing[i], true); err != nil {
			return err
		}
	}
	if !m.state.cached[name].dir {
		return fail("mkdir", name, syscall.EEXIST)
	}
	return nil
}

// List as FS says.
func (m *Mem) List(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, err := clean("list", name)
	if err != nil {
		return nil, err
	}
	if err := m.look("list", name); err != nil {
		return nil, err
	}
	n := m.state.cached[name]
	if n == nil {
		return nil, fail("list", name, syscall.ENOENT)
	}
	if !n.dir {
		return nil, fail("list", name, syscall.ENOTDIR)
	}
	return m.state.entries(name), nil
}

func (s *memState) entries(dir string) []string {
	var names []string
	for name := range s.cached {
		if name != "." && path.Dir(name) == dir {
			names = append(names, path.Base(name))
		}
	}
	sort.Strings(names)
	return names
}

// SyncDir as FS says.
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, err := clean("sync", name)
	if err != nil {
		return err
	}
	if err := m.begin("sync", name); err != nil {
		return err
	}
	if n := m.state.cached[name]; n == nil || !n.dir {
		return fail("sync", name, syscall.ENOENT)
	}
	m.state.syncNames(func(i int) bool {
		for _, entry := range m.state.pending[i].names {
			if path.Dir(entry) == name {
				return true
			}
		}
		return false
	})
	return nil
}

// syncNames makes the pending changes durable that want picks, each with the earlier ones that it
// builds on because they changed one of the same names.
func (s *memState) syncNames(want func(i int) bool) {
	picked := map[string]bool{}
	keep := make([]bool, len(s.pending))
	for i := len(s.pending) - 1; i >= 0; i-- {
		keep[i] = want(i)
		for _, name := range s.pending[i].names {
			keep[i] = keep[i] || picked[name]
		}
		if !keep[i] {
			continue
		}
		for _, name := range s.pending[i].names {
			picked[name] = true
		}
	}
	rest := s.pending[:0:0]
	for i, op := range s.pending {
		if keep[i] {
			op.apply(s.durable)
		} else {
			rest = append(rest, op)
		}
	}
	s.pending = rest
}

type memLock struct {
	m    *Mem
	name string
}

// Lock as FS says.
func (m *Mem) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, err := clean("lock", name)
	if err != nil {
		return nil, err
	}
	if err := m.begin("lock", name); err != nil {
		return nil, err
	}
	if m.locks[name] {
		return nil, fail("lock", name, ErrLocked)
	}
	if m.state.cached[name] == nil {
		if _, err := m.state.make("lock", name, false); err != nil {
			return nil, err
		}
	}
	m.locks[name] = true
	return &memLock{m, name}, nil
}

// Close lets the lock go.
func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if !l.m.locks[l.name] {
		return fail("unlock", l.name, iofs.ErrClosed)
	}
	delete(l.m.locks, l.name)
	return nil
}

// Space as FS says.
func (m *Mem) Space() (total, free int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.look("statfs", "."); err != nil {
		return 0, 0, err
	}
	return m.state.total, max(0, m.state.total-m.state.used), nil
}

// Used as FS says.
func (m *Mem) Used(name string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, err := clean("stat", name)
	if err != nil {
		return 0, err
	}
	if err := m.look("stat", name); err != nil {
		return 0, err
	}
	n := m.state.cached[name]
	if n == nil {
		return 0, fail("stat", name, syscall.ENOENT)
	}
	return n.alloc.count() * pageSize, nil
}

// InMemory implements [FS]: a Mem is a disk.
func (m *Mem) InMemory() bool { return false }

// Dump lists the files with their sizes, for the message of a failed test.
func (m *Mem) Dump() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, name := range sortedNames(m.state.cached) {
		b.WriteString(m.state.cached[name].String() + "\n")
	}
	return b.String()
}
