// Package ballast keeps a little room on the disk of a store for its daemon.
//
// The ballast is a file in the store, allocated while there is room and removed when others have left none. The store
// itself needs no new file to open, but the daemon makes a socket and a list of its devices, and xfs refuses to make any
// file, even an empty one, when its last blocks are gone: a daemon that was stopped could not be reached again.
package ballast

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"varve/objstore/vfs"
)

const (
	// name of the ballast in the store; all versions of varve know it.
	name = "spare"
	size = 4 << 20 // bytes
	// minFree is how many bytes have to be free for the ballast to be made.
	minFree = 64 << 20
)

// Keep makes the ballast of the store in dir if there is none and there is room for it.
func Keep(dir string) error {
	if fi, err := os.Stat(filepath.Join(dir, name)); err == nil && fi.Size() == size {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	if int64(st.Bavail)*st.Bsize < minFree {
		return nil
	}
	files := vfs.OS(dir)
	defer func() { _ = files.Close() }() // a handle only
	f, err := files.OpenFile(name, os.O_CREATE|os.O_WRONLY)
	if err != nil {
		return err
	}
	for {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil { // the file system has no fallocate, or no room after all
		err = files.Remove(name)
	}
	return errors.Join(err, f.Close())
}

// With calls do, which needs a little room on the disk. If it fails for want of room, With drops the ballast of the store in
// dir and calls do again.
func With(dir string, do func() error) error {
	err := do()
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	if rerr := os.Remove(filepath.Join(dir, name)); rerr != nil {
		return err
	}
	return do()
}
