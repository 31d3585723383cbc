package objstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// Lock is the right to open a store. It outlives openings that borrow it (Options.Lock), and its
// file may be handed to another process, so that a store goes from one process to the next with no
// moment in which a third could open it.
type Lock struct {
	file *os.File
	dir  *vfs.Dir
}

// TakeLock locks the store in dir. ErrStoreLocked if another has it, ErrNotStore if there is none.
func TakeLock(dir string) (*Lock, error) {
	files := vfs.OS(dir)
	err := isStore(files)
	if err == nil {
		var c io.Closer
		if c, err = lock(files); err == nil {
			return &Lock{c.(*os.File), files}, nil // as vfs.Dir promises
		}
	}
	return nil, errors.Join(fmt.Errorf("open store %s: %w", dir, err), files.Close())
}

// lock takes the store's lock, and writes into its file which process has it.
func lock(fs vfs.FS) (io.Closer, error) {
	c, err := fs.Lock(lockFile)
	if errors.Is(err, vfs.ErrLocked) {
		if pid := LockedBy(fs); pid != 0 {
			return nil, fmt.Errorf("%w, pid %d", ErrStoreLocked, pid)
		}
		return nil, ErrStoreLocked
	}
	if f, ok := c.(*os.File); ok && err == nil {
		noteOwner(f)
	}
	return c, err
}

// noteOwner writes this process's ID into the lock's file. It is for messages, and a full disk may
// have no room for it.
func noteOwner(f *os.File) {
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	}
}

// LockedBy is the process that has said last that the lock is its, if it is alive; 0: unknown.
// Versions from before have not said it.
func LockedBy(fs vfs.FS) int {
	f, err := fs.Open(lockFile)
	if err != nil {
		return 0
	}
	defer f.Close()
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0) // as far as there is something
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil || pid <= 0 || errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return 0
	}
	return pid
}

// Holder reports whether a process has the store in dir, and returns its ID, 0 if that is not
// known. The process may be one that only reads.
func Holder(dir string) (pid int, held bool) {
	files := vfs.OS(dir)
	defer func() { _ = files.Close() }() // a handle only
	c, err := files.LockShared(lockFile)
	if err == nil {
		_ = c.Close() // it holds nothing but the lock
		return 0, false
	}
	if !errors.Is(err, vfs.ErrLocked) {
		return 0, false
	}
	return LockedBy(files), true
}

// InheritLock is the lock of the store in dir, whose File another process handed over.
func InheritLock(dir string, f *os.File) *Lock {
	noteOwner(f)
	return &Lock{f, vfs.OS(dir)}
}

// Dir is the store's directory, wherever it has been moved to since the lock was taken. It is
// closed with the Lock.
func (l *Lock) Dir() *vfs.Dir { return l.dir }

// File stays the Lock's. The lock is given up when the last copy of it is closed, in whichever
// process.
func (l *Lock) File() *os.File { return l.file }

// Close releases this process's share of the lock. No opening may borrow it any more.
func (l *Lock) Close() error { return errors.Join(l.file.Close(), l.dir.Close()) }

// Check returns an error if this version of the program can't serve the store in dir: ErrVersion if
// the store uses features that this version does not know. It neither opens nor changes the store.
func Check(dir string) error {
	files := vfs.OS(dir)
	defer func() { _ = files.Close() }() // nothing is written
	err := isStore(files)
	if err == nil {
		_, _, err = refs.ReadSuperblock(vfs.Overlay(files), false)
	}
	if err != nil {
		return fmt.Errorf("check store %s: %w", dir, err)
	}
	return nil
}
