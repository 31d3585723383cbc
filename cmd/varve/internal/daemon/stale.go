package daemon

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"varve/fs"
)

// dropStaleMount unmounts a FUSE mount at dir whose server is dead. It leaves every other mount
// alone.
func dropStaleMount(dir string) (bool, error) {
	kind, err := mountedAt(dir)
	if err != nil || !strings.HasPrefix(kind, "fuse") {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); !errors.Is(err, unix.ENOTCONN) {
		return false, nil // its server is alive
	}
	if err := fs.RemoveDead(dir); err != nil {
		return false, fmt.Errorf("unmount %s: %w", dir, err)
	}
	return true, nil
}

// mountInUse reports whether a file below a mount is open, or a directory is a process's working
// directory.
func mountInUse(dir string) bool {
	// The first call only marks a mount that is not in use, and a second one would unmount it
	// (umount(2), MNT_EXPIRE).
	err := unix.Unmount(dir, unix.MNT_EXPIRE)
	var st unix.Stat_t
	_ = unix.Stat(dir, &st) // removes the mark
	return errors.Is(err, unix.EBUSY)
}

// mountedAt returns the type of the topmost file system mounted at dir, or "" if there is none.
func mountedAt(dir string) (string, error) {
	list, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
	if err != nil || len(list) == 0 {
		return "", err
	}
	return list[len(list)-1].FSType, nil
}
