package disk

import (
	"errors"
	"io"
	"reflect"

	"golang.org/x/sys/unix"

	"varve/objstore/queuethread"
	"varve/objstore/vfs"
)

// AlignedBuffer returns n bytes that begin at a page, as direct I/O needs them.
func AlignedBuffer(n int) []byte {
	b := make([]byte, n+BlockSize)
	skip := int(-bufferAddress(b) & (BlockSize - 1))
	return b[skip : skip+n : skip+n]
}

// bufferAddress is used for its alignment only.
func bufferAddress(b []byte) int64 { return int64(reflect.ValueOf(b).Pointer()) }

// Alignment is the largest power of two that divides n, at most BlockSize.
func Alignment(n int64) int64 {
	n |= BlockSize
	return n & -n
}

// ReadAligned fills b from off, past the page cache where the alignment of b and off allows it.
func ReadAligned(f vfs.File, b []byte, off int64) error {
	queuethread.Blocks("a read")
	fd := f.FD(Alignment(off | int64(len(b)) | bufferAddress(b)))
	if fd < 0 {
		n, err := f.ReadAt(b, off)
		if n == len(b) {
			return nil
		}
		return err
	}
	return transfer(b, off, func(b []byte, off int64) (int, error) { return unix.Pread(fd, b, off) })
}

// WriteAligned writes b at off, past the page cache where the alignment of b and off allows it.
func WriteAligned(f vfs.File, b []byte, off int64) error {
	queuethread.Blocks("a write")
	fd := f.FD(Alignment(off | int64(len(b)) | bufferAddress(b)))
	if fd < 0 {
		_, err := f.WriteAt(b, off)
		return err
	}
	return transfer(b, off, func(b []byte, off int64) (int, error) { return unix.Pwrite(fd, b, off) })
}

func transfer(b []byte, off int64, op func([]byte, int64) (int, error)) error {
	for len(b) > 0 {
		n, err := op(b, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}
