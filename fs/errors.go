package fs

import "errors"

// Errors of Mount and Server, for errors.Is.
var (
	// ErrNoFUSE: /dev/fuse is missing. The kernel needs CONFIG_FUSE_FS, or its module fuse loaded.
	ErrNoFUSE = errors.New("no /dev/fuse: the kernel needs CONFIG_FUSE_FS or the module fuse")
	// ErrPermission: mounting needs CAP_SYS_ADMIN or the program fusermount3.
	ErrPermission = errors.New("mounting needs root, or the program fusermount3")
	// ErrMounted: a varve mount with a living server is already there.
	ErrMounted = errors.New("varve is mounted there already")
	// ErrBusy: a file of the mount is open, or a process or a loop device uses it.
	ErrBusy = errors.New("mount is in use")
)
