package backing

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// page is what the memory of direct I/O is aligned to here: no disk wants more.
const page = 4096

// Memory returns n bytes of memory for direct I/O, on a page boundary.
func Memory(n int) []byte {
	b := make([]byte, n+page)
	skip := -int(uring.Address(b)) & (page - 1)
	return b[skip : skip+n : skip+n]
}

// ReadAt fills p, which Memory has made, from off on: for what a target keeps beside its data. It may
// block.
func (f *File) ReadAt(p []byte, off int64) error {
	return f.all(p, off, unix.Pread, io.ErrUnexpectedEOF)
}

// WriteAt writes all of p, which Memory has made, to off. It may block, and is durable after Sync.
func (f *File) WriteAt(p []byte, off int64) error {
	return f.all(p, off, unix.Pwrite, io.ErrShortWrite)
}

// Truncate makes a regular file end at size bytes. What it gets is zeroes.
func (f *File) Truncate(size int64) error {
	if err := unix.Ftruncate(f.fd, size); err != nil {
		return fmt.Errorf("backing file %s: %w", f.path, err)
	}
	return nil
}

func (f *File) all(p []byte, off int64, move func(int, []byte, int64) (int, error), nothing error) error {
	for len(p) > 0 {
		n, err := move(f.fd, p, off)
		if err == nil && n == 0 {
			err = nothing
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("backing file %s at %d: %w", f.path, off, err)
		}
		n = max(n, 0)
		p, off = p[n:], off+int64(n)
	}
	return nil
}
