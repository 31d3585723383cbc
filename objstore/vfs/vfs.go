// Package vfs is the file layer of the store: the few file operations that the store needs, so that
// a test can replace the disk or interfere with it.
//
// [OS] is the real one. [Mem] keeps files in memory and knows which bytes a power cut would keep; a
// test crashes it at any operation and opens the store again. [Inject] lets any operation of
// another layer fail.
//
// The rules are those of Linux file systems:
//   - What was written is in the page cache. It survives the death of the process, and is durable
//     after Datasync. A power cut keeps any subset of the sectors (512 bytes) that were not made
//     durable.
//   - A mapped byte is like a written one: in the page cache at once, durable after Datasync.
//   - A directory entry (Create, Rename, Remove) is durable after SyncDir on its directory. Before
//     that a power cut keeps it or not.
package vfs

import "io"

// SectorSize in bytes is the unit that a power cut doesn't tear.
const SectorSize = 512

// FS is a tree of files below one directory. Names are relative, with slashes. Safe for concurrent
// use.
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
	// List returns the names of the entries of a directory, sorted.
	List(name string) ([]string, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Lock takes an exclusive lock on a file, which it creates if necessary, until Close or the end
	// of the process. It returns ErrLocked if another holder has it.
	Lock(name string) (io.Closer, error)
	// Space returns the file system's size and its free space, in bytes.
	Space() (total, free int64, err error)
	// Used returns the space that the file occupies on disk, in bytes.
	Used(name string) (int64, error)
	// InMemory reports whether the files are in memory alone: operations on them, syncs among them,
	// wait for no disk.
	InMemory() bool
}

// File is an open file. Safe for concurrent use, but for Close.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	// Identity returns the file's identity, or the zero Identity if it is unknown.
	Identity() (Identity, error)
	Truncate(size int64) error
	// Allocate reserves space for the range, which reads as zeroes where nothing was written, and
	// extends the file to its end. Later writes and stores to a mapping of the range do not fail
	// for lack of space.
	Allocate(off, length int64) error
	// Reserve reserves space for the range as Allocate does, but does not change the size. Truncate
	// may free the space.
	Reserve(off, length int64) error
	// Punch frees the space of the range, which then reads as zeroes. The size does not change.
	Punch(off, length int64) error
	// Datasync makes the file's bytes and size durable.
	Datasync() error
	// Map maps a range, shared, for reading and writing; off is a multiple of the page size. The
	// range must lie in the file. It is valid until Unmap.
	Map(off int64, length int) ([]byte, error)
	Unmap(b []byte) error
	// Prefault makes stores to whole pages of a mapping not fault, until the kernel writes these
	// pages to disk: Datasync does. It marks the pages dirty and changes no byte. It may block, and
	// does what it can: a page that it could not prepare faults later.
	Prefault(b []byte)
	// FD returns the descriptor for I/O on a range of the given alignment in bytes (of offset,
	// length and buffer alike): one that goes past the page cache where the file system and the
	// alignment allow it. -1 where there are no descriptors. It is valid until Close.
	FD(align int64) int
}
