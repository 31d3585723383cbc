package fs

import (
	"errors"

	"golang.org/x/sys/unix"
)

// fallocate tries again when one of the runtime's signals has interrupted it: FUSE answers EINTR then.
func fallocate(fd int, mode uint32, off, length int64) error {
	for {
		if err := unix.Fallocate(fd, mode, off, length); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
