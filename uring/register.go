//go:build linux

package uring

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tables implements Registrar by a register call. Both implementations embed it.
type tables struct {
	register func(op uint32, arg unsafe.Pointer, n uint32) unix.Errno
}

// call retries a registration that a signal interrupted.
func (t tables) call(name string, op uint32, arg unsafe.Pointer, n uint32) error {
	for {
		errno := t.register(op, arg, n)
		if errno != unix.EINTR {
			return opError(name, errno)
		}
	}
}

func (t tables) RegisterBuffersSparse(n uint32) error {
	reg := &rsrcRegister{nr: n, flags: IORING_RSRC_REGISTER_SPARSE}
	return t.call("register sparse buffers", IORING_REGISTER_BUFFERS2, unsafe.Pointer(reg), uint32(unsafe.Sizeof(*reg)))
}

func (t tables) RegisterBuffers(bufs [][]byte) error {
	const name = "register buffers"
	if len(bufs) == 0 {
		return opError(name, unix.EINVAL)
	}
	vec := iovecs(bufs)
	err := t.call(name, IORING_REGISTER_BUFFERS, unsafe.Pointer(&vec[0]), uint32(len(vec)))
	runtime.KeepAlive(bufs)
	return err
}

func (t tables) UpdateBuffers(off uint32, bufs [][]byte) error {
	const name = "update buffers"
	if len(bufs) == 0 {
		return opError(name, unix.EINVAL)
	}
	vec := iovecs(bufs)
	up := &rsrcUpdate{offset: off, data: escape(unsafe.Pointer(&vec[0])), nr: uint32(len(vec))}
	err := t.call(name, IORING_REGISTER_BUFFERS_UPDATE, unsafe.Pointer(up), uint32(unsafe.Sizeof(*up)))
	runtime.KeepAlive(vec)
	runtime.KeepAlive(bufs)
	return err
}

func (t tables) RegisterFiles(fds []int32) error {
	const name = "register files"
	if len(fds) == 0 {
		return opError(name, unix.EINVAL)
	}
	return t.call(name, IORING_REGISTER_FILES, unsafe.Pointer(&fds[0]), uint32(len(fds)))
}

func (t tables) UpdateFiles(off uint32, fds []int32) error {
	const name = "update files"
	if len(fds) == 0 {
		return opError(name, unix.EINVAL)
	}
	up := &rsrcUpdate{offset: off, data: escape(unsafe.Pointer(&fds[0]))}
	err := t.call(name, IORING_REGISTER_FILES_UPDATE, unsafe.Pointer(up), uint32(len(fds)))
	runtime.KeepAlive(fds)
	return err
}

// iovecs returns bufs as the kernel's struct iovec.
func iovecs(bufs [][]byte) []unix.Iovec {
	vec := make([]unix.Iovec, len(bufs))
	for i, b := range bufs {
		if len(b) > 0 {
			vec[i].Base = &b[0]
			vec[i].SetLen(len(b))
		}
	}
	return vec
}
