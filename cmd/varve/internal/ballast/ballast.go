// Package ballast reserves a little space on the disk of a store for its daemon.
//
// The ballast is a file in the store, allocated while there is space and removed when the disk is
// full. The store itself needs no new file to open, but the daemon makes a socket and a list of its
// devices, and xfs refuses to create even an empty file when its last blocks are gone: without the
// ballast, a daemon that starts then could not be reached.
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
	// minFree is the free space in bytes above which the ballast is made.
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
	if err != nil { // no fallocate on this file system, or no space after all
		err = files.Remove(name)
	}
	return errors.Join(err, f.Close())
}

// With calls do, which needs a little space on the disk. If do fails because the disk is full, With
// removes the ballast of the store in dir and calls do again.
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
