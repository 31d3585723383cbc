package vfs

import (
	"errors"
	"io"
)

// Kind is a kind of operation.
type Kind int

// The operations of FS and File that a hook sees.
const (
	OpCreate Kind = iota
	OpOpen
	OpRemove
	OpRename
	OpMkdir
	OpList
	OpSyncDir
	OpLock
	OpSpace
	OpUsed
	OpRead
	OpWrite
	OpSize
	OpTruncate
	OpAllocate
	OpPunch
	OpDatasync
	OpMap
	kinds
)

var kindNames = [kinds]string{
	"create", "open", "remove", "rename", "mkdir", "list", "syncdir", "lock", "space", "used",
	"read", "write", "size", "truncate", "allocate", "punch", "datasync", "map",
}

func (k Kind) String() string { return kindNames[k] }

// Op is an operation about to be done.
type Op struct {
	Kind Kind
	Name string // of the file as it was opened; of a rename the new one
	Off  int64  // bytes; of a truncate the new size
	Len  int64  // bytes
}

// ShortError from a hook cuts a write short: its first N bytes are written, and Err is the answer.
type ShortError struct {
	N   int
	Err error
}

func (e *ShortError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *ShortError) Unwrap() error { return e.Err }

// Inject asks the hook before each operation. An error from it is the answer, and the operation is
// not done. The hook is called from any goroutine that uses the files.
func Inject(fs FS, hook func(Op) error) FS { return &injectFS{fs, hook} }

type injectFS struct {
	fs   FS
	hook func(Op) error
}

func (i *injectFS) Create(name string) (File, error) {
	if err := i.hook(Op{Kind: OpCreate, Name: name}); err != nil {
		return nil, fail("create", name, err)
	}
	f, err := i.fs.Create(name)
	return i.file(f, name, err)
}

func (i *injectFS) Open(name string) (File, error) {
	if err := i.hook(Op{Kind: OpOpen, Name: name}); err != nil {
		return nil, fail("open", name, err)
	}
	f, err := i.fs.Open(name)
	return i.file(f, name, err)
}

func (i *injectFS) file(f File, name string, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return &injectFile{File: f, hook: i.hook, name: name}, nil
}

func (i *injectFS) Remove(name string) error {
	if err := i.hook(Op{Kind: OpRemove, Name: name}); err != nil {
		return fail("remove", name, err)
	}
	return i.fs.Remove(name)
}

func (i *injectFS) Rename(oldname, newname string) error {
	if err := i.hook(Op{Kind: OpRename, Name: newname}); err != nil {
		return fail("rename", newname, err)
	}
	return i.fs.Rename(oldname, newname)
}

func (i *injectFS) Mkdir(name string) error {
	if err := i.hook(Op{Kind: OpMkdir, Name: name}); err != nil {
		return fail("mkdir", name, err)
	}
	return i.fs.Mkdir(name)
}

func (i *injectFS) List(name string) ([]string, error) {
	if err := i.hook(Op{Kind: OpList, Name: name}); err != nil {
		return nil, fail("list", name, err)
	}
	return i.fs.List(name)
}

func (i *injectFS) SyncDir(name string) error {
	if err := i.hook(Op{Kind: OpSyncDir, Name: name}); err != nil {
		return fail("sync", name, err)
	}
	return i.fs.SyncDir(name)
}

func (i *injectFS) Lock(name string) (io.Closer, error) {
	if err := i.hook(Op{Kind: OpLock, Name: name}); err != nil {
		return nil, fail("lock", name, err)
	}
	return i.fs.Lock(name)
}

func (i *injectFS) Space() (total, free int64, err error) {
	if err := i.hook(Op{Kind: OpSpace, Name: "."}); err != nil {
		return 0, 0, fail("statfs", ".", err)
	}
	return i.fs.Space()
}

func (i *injectFS) Used(name string) (int64, error) {
	if err := i.hook(Op{Kind: OpUsed, Name: name}); err != nil {
		return 0, fail("stat", name, err)
	}
	return i.fs.Used(name)
}

// InMemory implements [FS]: to be asked about each operation, the files have to count as on a disk.
func (i *injectFS) InMemory() bool { return false }

type injectFile struct {
	File // Unmap, Prefault, FD and Close are not asked about
	hook func(Op) error
	name string
}

func (f *injectFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.hook(Op{OpRead, f.name, off, int64(len(p))}); err != nil {
		return 0, fail("read", f.name, err)
	}
	return f.File.ReadAt(p, off)
}

func (f *injectFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.hook(Op{OpWrite, f.name, off, int64(len(p))})
	if err == nil {
		return f.File.WriteAt(p, off)
	}
	n := 0
	var short *ShortError
	if errors.As(err, &short) {
		var werr error
		if n, werr = f.File.WriteAt(p[:min(short.N, len(p))], off); werr != nil {
			return n, werr
		}
	}
	return n, fail("write", f.name, err)
}

func (f *injectFile) Size() (int64, error) {
	if err := f.hook(Op{Kind: OpSize, Name: f.name}); err != nil {
		return 0, fail("stat", f.name, err)
	}
	return f.File.Size()
}

func (f *injectFile) Truncate(size int64) error {
	if err := f.hook(Op{Kind: OpTruncate, Name: f.name, Off: size}); err != nil {
		return fail("truncate", f.name, err)
	}
	return f.File.Truncate(size)
}

func (f *injectFile) Allocate(off, length int64) error {
	if err := f.hook(Op{OpAllocate, f.name, off, length}); err != nil {
		return fail("allocate", f.name, err)
	}
	return f.File.Allocate(off, length)
}

func (f *injectFile) Reserve(off, length int64) error {
	if err := f.hook(Op{OpAllocate, f.name, off, length}); err != nil {
		return err
	}
	return f.File.Reserve(off, length)
}

func (f *injectFile) Punch(off, length int64) error {
	if err := f.hook(Op{OpPunch, f.name, off, length}); err != nil {
		return fail("punch", f.name, err)
	}
	return f.File.Punch(off, length)
}

func (f *injectFile) Datasync() error {
	if err := f.hook(Op{Kind: OpDatasync, Name: f.name}); err != nil {
		return fail("fdatasync", f.name, err)
	}
	return f.File.Datasync()
}

func (f *injectFile) Map(off int64, length int) ([]byte, error) {
	if err := f.hook(Op{OpMap, f.name, off, int64(length)}); err != nil {
		return nil, fail("mmap", f.name, err)
	}
	return f.File.Map(off, length)
}
