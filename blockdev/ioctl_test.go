package blockdev

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// blockRange is an ioctl that takes an offset and a length: BLKDISCARD, BLKZEROOUT.
func blockRange(f *os.File, req uint, off, n int) error {
	arg := [2]uint64{uint64(off), uint64(n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(req), uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

func uintptrOf(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
