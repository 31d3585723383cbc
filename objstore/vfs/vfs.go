// Package vfs is the file layer of the store: the few file operations it is built on, so that a test can
// stand between the store and the disk.
//
// [OS] is the real one. [Mem] keeps files in memory and knows which bytes a power cut would keep; a test
// crashes it at any operation and opens the store again. [Inject] lets any operation of another layer fail.
//
// The rules are those of Linux file systems:
//   - What was written is in the page cache. It survives the death of the process, and is durable after
//     Datasync. A power cut keeps any subset of the sectors (512 bytes) that were not made durable.
//   - A mapped byte is like a written one: in the page cache at once, durable after Datasync.
//   - A directory entry (Create, Rename, Remove) is durable after SyncDir on its directory. Before that a
//     power cut keeps it or not.
package vfs

import "io"

// SectorSize in bytes is the unit that a power cut doesn't tear.
const SectorSize = 512

// FS is a tree of files below one directory. Names are relative, with slashes. Safe for concurrent use.
type FS interface {
	// Create makes a new file, open for reading and writing; os.ErrExist if there is one.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing; os.ErrNotExist if there is none.
	Open(name string) (File, error)
	Remove(name string) error
	// Rename replaces newname if it is there.
	Rename(oldname, newname string) error
	// Mkdir makes a directory and its parents; no error if it is there.
	Mkdir(name string) error
	// List gives the names of the entries of a directory, sorted.
	List(name string) ([]string, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Lock takes an exclusive lock on a file, which it makes if need be, for the life of the process or
	// until Close. ErrLocked if another holds it.
	Lock(name string) (io.Closer, error)
	// Space says how many bytes the file system has and how many of them are free.
	Space() (total, free int64, err error)
	// Used says how many bytes the file occupies on disk.
	Used(name string) (int64, error)
}

// File is an open file. Safe for concurrent use, but for Close.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	// Identity tells the file from all others, and from its copies. It is the zero Identity where that is not known.
	Identity() (Identity, error)
	Truncate(size int64) error
	// Allocate reserves room for the range, which reads as zeroes where nothing was written, and extends
	// the file to its end. Later writes and stores to a mapping of the range do not fail for lack of space.
	Allocate(off, length int64) error
	// Reserve reserves room for the range as Allocate does, and leaves the size alone. Truncate may give it back.
	Reserve(off, length int64) error
	// Punch gives the room of the range back; it then reads as zeroes. The size stays.
	Punch(off, length int64) error
	// Datasync makes the file's bytes and size durable.
	Datasync() error
	// Map maps a range, shared, for reading and writing; off is a multiple of the page size. The range must lie in the file.
	// It is valid until Unmap.
	Map(off int64, length int) ([]byte, error)
	Unmap(b []byte) error
	// FD gives the descriptor for I/O on a range of the given alignment in bytes (of offset, length and
	// buffer alike): one that goes past the page cache where the file system and the alignment allow it.
	// -1 where there are no descriptors. It is valid until Close.
	FD(align int64) int
}
