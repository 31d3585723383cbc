package z

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives the bytes of a file room on the disk: a store to a mapped hole is a SIGBUS where there is none left.
// File systems without fallocate keep the hole.
//
// This is not in the original.
func allocate(fd *os.File, off, length int64) error {
	if length <= 0 {
		return nil
	}
	for {
		err := unix.Fallocate(int(fd.Fd()), 0, off, length)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return nil
		}
		return os.NewSyscallError("fallocate", err)
	}
}
