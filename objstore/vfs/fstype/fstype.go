// Package fstype tells kinds of file systems apart.
package fstype

import (
	"errors"

	"golang.org/x/sys/unix"
)

// InMemory reports whether an open file or directory is on tmpfs or ramfs, whose syncs do nothing
// (noop_fsync of Linux's fs/libfs.c). Where the file system cannot be asked, the file counts as on a
// disk. A node of a device counts as what it lies on, which says nothing of the device.
func InMemory(fd int) bool {
	var st unix.Statfs_t
	err := unix.Fstatfs(fd, &st)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fstatfs(fd, &st)
	}
	return err == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}
