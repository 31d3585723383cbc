package fs

import "errors"

// What a caller of Mount and Server may test for with errors.Is.
var (
	// ErrNoFUSE: /dev/fuse is missing. The kernel needs CONFIG_FUSE_FS, or its module fuse loaded.
	ErrNoFUSE = errors.New("no /dev/fuse: the kernel needs CONFIG_FUSE_FS or the module fuse")
	// ErrPermission: mounting needs CAP_SYS_ADMIN, or the program fusermount3.
	ErrPermission = errors.New("mounting needs root, or the program fusermount3")
	// ErrMounted: varve is mounted there already, and is alive.
	ErrMounted = errors.New("varve is mounted there already")
	// ErrBusy: a file of the mount is open, or a process or a loop device uses it.
	ErrBusy = errors.New("mount is in use")
)
