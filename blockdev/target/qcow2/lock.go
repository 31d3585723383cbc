package qcow2

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/backing"
)

// qemu's locks on an image (block/file-posix.c, qemu 7.2) are shared locks of the open file
// description on single bytes: one at permBase + p says that its holder does p, one at unsharedBase + p
// that its holder can't stand others who do p. Whoever opens the image takes its own, and then looks
// for those of others that contradict.
const (
	permBase     = 100
	unsharedBase = 200
	lockedBytes  = 200 // from permBase on: all of them

	permRead   = 0 // consistent read
	permWrite  = 1
	permResize = 3
)

// lockGrace is how long a process that has died may keep its locks; see backing.Open.
const lockGrace = time.Second

// openFile opens a file of the chain and takes qemu's locks.
func openFile(path string, o backing.Options) (*backing.File, error) {
	f, err := backing.Open(path, o)
	if err != nil {
		return nil, err
	}
	err = lock(f, !o.ReadOnly)
	for end := time.Now().Add(lockGrace); errors.Is(err, backing.ErrUsed) && time.Now().Before(end); err = lock(f, !o.ReadOnly) {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return nil, errors.Join(err, unlock(f), f.Close())
	}
	return f, nil
}

// lock takes the locks of a reader or writer, neither of whom can stand that another writes.
func lock(f *backing.File, write bool) error {
	own, unshared := []int64{permRead}, []int64{permWrite, permResize}
	if write {
		own = []int64{permRead, permWrite, permResize}
	}
	for _, p := range own {
		if err := lockByte(f, permBase+p); err != nil {
			return err
		}
	}
	for _, p := range unshared {
		if err := lockByte(f, unsharedBase+p); err != nil {
			return err
		}
	}
	for _, p := range own {
		if err := lookFor(f, unsharedBase+p); err != nil {
			return err
		}
	}
	for _, p := range unshared {
		if err := lookFor(f, permBase+p); err != nil {
			return err
		}
	}
	return nil
}

func lockByte(f *backing.File, at int64) error {
	l := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
	err := unix.FcntlFlock(uintptr(f.FD()), unix.F_OFD_SETLK, &l)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return used(f)
	}
	return noLocks(f, err)
}

// lookFor refuses the file if somebody else has a lock.
func lookFor(f *backing.File, at int64) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
	err := unix.FcntlFlock(uintptr(f.FD()), unix.F_OFD_GETLK, &l)
	if err == nil && l.Type != unix.F_UNLCK {
		return used(f)
	}
	return noLocks(f, err)
}

func used(f *backing.File) error {
	return fmt.Errorf("image %s: %w: another program, such as qemu, has locked it", f.Path(), backing.ErrUsed)
}

// noLocks passes over a file system without locks, as qemu does.
func noLocks(f *backing.File, err error) error {
	if err == nil || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return fmt.Errorf("lock image %s: %w", f.Path(), err)
}

// unlock gives the locks up at once: a ring that is being closed may keep the file for a moment.
func unlock(f *backing.File) error {
	l := unix.Flock_t{Type: unix.F_UNLCK, Start: permBase, Len: lockedBytes}
	return noLocks(f, unix.FcntlFlock(uintptr(f.FD()), unix.F_OFD_SETLK, &l))
}
