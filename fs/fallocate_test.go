package fs

import (
	"errors"

	"golang.org/x/sys/unix"
)

// fallocate retries when one of the Go runtime's signals has interrupted it, for which FUSE returns
// EINTR.
func fallocate(fd int, mode uint32, off, length int64) error {
	for {
		if err := unix.Fallocate(fd, mode, off, length); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
