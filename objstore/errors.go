package objstore

import (
	"errors"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/refs"
)

// What a caller may test for with errors.Is. blockdev translates them to the result of a ublk
// request, fs to a FUSE status; no other package turns them into an errno.
var (
	// ErrNotStore: the directory holds no varve store.
	ErrNotStore = refs.ErrNotStore
	// ErrStoreExists: init found a store, or other files, where the new store should be.
	ErrStoreExists = errors.New("directory is not empty")
	// ErrStoreLocked: another process has the store open.
	ErrStoreLocked = errors.New("store is in use by another process")
	// ErrVersion: the store was written by a newer varve.
	ErrVersion = disk.ErrVersion
	// ErrCorrupt: a checksum or a hash did not match; CorruptError has the location.
	ErrCorrupt = disk.ErrCorrupt
	// ErrCopied: a journal was copied from a store that was in use; see Store.AcceptCopies.
	ErrCopied = errors.New("a copy that can't be relied on")
	// ErrNoSpace: the store's file system has no more room than the reserve and what settling may
	// need.
	ErrNoSpace = disk.ErrNoSpace
	// ErrReadOnly: the store or the volume takes no writes; the error that wraps it has the reason.
	ErrReadOnly = errors.New("read-only")
	// ErrClosed: the store, volume or view was closed.
	ErrClosed = errors.New("closed")
	// ErrNotFound: no volume, snapshot or root of that name.
	ErrNotFound = refs.ErrNotFound
	// ErrExists: the name is taken.
	ErrExists = refs.ErrExists
	// ErrInUse: the volume is attached or open.
	ErrInUse = errors.New("in use")
	// ErrInvalid: a name, size or range that no store could take.
	ErrInvalid = disk.ErrInvalid
	// ErrBusy: the tail is at its limit, settling may need the room that is left, or the next
	// segment is still being made. Call Wait, then try again.
	ErrBusy = errors.New("waiting for settling")
	// ErrNotLoaded: a plan needs tree nodes that are not in memory. Call Load, then plan again.
	ErrNotLoaded = errors.New("tree nodes not in memory")
)

// CorruptError names the file and the offset at which stored bytes were not what they should be.
type CorruptError = disk.CorruptError
