package disk

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"varve/objstore/vfs"
)

// The sentinels that the formats return; package objstore exports them under the same names.
var (
	// ErrCorrupt: a checksum or a hash did not match; the [CorruptError] around it says where.
	ErrCorrupt = errors.New("corrupt")
	// ErrVersion: the file was written by a newer version of the program.
	ErrVersion = errors.New("unsupported format version")
	// ErrNoSpace: the file system, or a limit of the format, has no room for the bytes.
	ErrNoSpace = errors.New("no space left in the store")
	// ErrInvalid: a name, size or range that no store could take.
	ErrInvalid = errors.New("invalid")
	// ErrUnsynced: a sync failed, so that it is not known which bytes are durable. Trying again
	// does not help.
	ErrUnsynced = errors.New("not synced")
)

// CorruptError names the file and the offset at which stored bytes were not what they should be.
type CorruptError struct {
	File   string // path, relative to the store
	Offset int64  // bytes
	Object string // what was expected there
	Err    error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt %s in %s at byte %d: %v", e.Object, e.File, e.Offset, e.Err)
}

// Unwrap returns ErrCorrupt and the cause.
func (e *CorruptError) Unwrap() []error { return []error{ErrCorrupt, e.Err} }

// AsCorrupt returns the CorruptError in err, or a new one around err if it has none.
func AsCorrupt(err error, file string, off int64, object string) *CorruptError {
	var c *CorruptError
	if errors.As(err, &c) {
		return c
	}
	return &CorruptError{File: file, Offset: off, Object: object, Err: err}
}

// Unreadable reports an error that says only that the disk, or the file system on it, has lost some
// bytes. A file that returns one is treated as damaged there. Other errors (no memory, too many
// files) say nothing about the file.
func Unreadable(err error) bool {
	for _, e := range []unix.Errno{unix.EIO, unix.EUCLEAN, unix.EBADMSG, unix.EILSEQ, unix.ENODATA, unix.EREMOTEIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Corrupt reports bytes that are known to be wrong. Bytes that could not be read for want of memory
// or descriptors are not.
func Corrupt(err error) bool { return errors.Is(err, ErrCorrupt) && !Transient(err) }

// Damaged reports an error that concerns some bytes of a file, and so what lies in them, and not
// the whole store.
func Damaged(err error) bool { return Corrupt(err) || Unreadable(err) }

// Transient reports an error after which everything is as it was before the call; see vfs.Passing.
// A failed sync is never transient.
func Transient(err error) bool { return vfs.Passing(err) && !errors.Is(err, ErrUnsynced) }

// SyncError marks the error of a sync with ErrUnsynced; nil stays nil.
func SyncError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnsynced, err)
}

// SpaceError adds ErrNoSpace to an error by which the file system refuses a write for want of room
// or quota, and returns any other error unchanged.
func SpaceError(err error) error {
	if !errors.Is(err, ErrNoSpace) && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
