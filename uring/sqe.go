//go:build linux

package uring

import (
	"structs"
	"unsafe"
)

// SQE is one mapped submission entry, struct io_uring_sqe. The methods that prepare an operation
// (Nop to UringCmd) overwrite all 64 bytes; set UserData and Flags after them.
type SQE struct {
	_           structs.HostLayout
	Opcode      uint8
	Flags       uint8 // IOSQE_*
	IOPrio      uint16
	FD          int32
	Off         uint64
	Addr        uint64
	Len         uint32
	OpFlags     uint32 // rw_flags, fsync_flags, poll32_events, uring_cmd_flags
	UserData    uint64
	BufIndex    uint16
	Personality uint16
	FileIndex   uint32
	cmd         [16]byte
}

const (
	sqeSize    = 64
	bigSQESize = 128
	cmdOffset  = 48
)

// Sizes of the kernel's ABI: a wrong one does not compile.
var (
	_ [sqeSize]byte   = [unsafe.Sizeof(SQE{})]byte{}
	_ [cmdOffset]byte = [unsafe.Offsetof(SQE{}.cmd)]byte{}
	_ [16]byte        = [unsafe.Sizeof(CQE{})]byte{}
	_ [120]byte       = [unsafe.Sizeof(params{})]byte{}
	_ [40]byte        = [unsafe.Sizeof(sqOffsets{})]byte{}
	_ [40]byte        = [unsafe.Sizeof(cqOffsets{})]byte{}
	_ [24]byte        = [unsafe.Sizeof(geteventsArg{})]byte{}
	_ [32]byte        = [unsafe.Sizeof(rsrcRegister{})]byte{}
	_ [32]byte        = [unsafe.Sizeof(rsrcUpdate{})]byte{}
)

// Nop prepares an operation that does nothing.
func (s *SQE) Nop() { *s = SQE{Opcode: IORING_OP_NOP, FD: -1} }

// ReadFixed prepares a read of length bytes at fileOff into registered buffer bufIndex. bufOff is
// the byte offset into a buffer that the kernel registered (ublk's request), or the memory's
// address in a buffer of RegisterBuffers.
func (s *SQE) ReadFixed(fd int32, bufIndex uint16, bufOff uint64, length uint32, fileOff uint64) {
	*s = SQE{Opcode: IORING_OP_READ_FIXED, FD: fd, Off: fileOff, Addr: bufOff, Len: length, BufIndex: bufIndex}
}

// WriteFixed prepares a write out of registered buffer bufIndex; see ReadFixed.
func (s *SQE) WriteFixed(fd int32, bufIndex uint16, bufOff uint64, length uint32, fileOff uint64) {
	*s = SQE{Opcode: IORING_OP_WRITE_FIXED, FD: fd, Off: fileOff, Addr: bufOff, Len: length, BufIndex: bufIndex}
}

// Read prepares a read into buf at fileOff. The caller keeps buf reachable and does not touch it
// until the completion.
func (s *SQE) Read(fd int32, buf []byte, fileOff uint64) {
	*s = SQE{Opcode: IORING_OP_READ, FD: fd, Off: fileOff, Addr: Address(buf), Len: uint32(len(buf))}
}

// Write prepares a write of buf at fileOff. The caller keeps buf reachable and unchanged until the
// completion.
func (s *SQE) Write(fd int32, buf []byte, fileOff uint64) {
	*s = SQE{Opcode: IORING_OP_WRITE, FD: fd, Off: fileOff, Addr: Address(buf), Len: uint32(len(buf))}
}

// Recv prepares a recv into buf from a socket; flags are MSG_*. The caller keeps buf reachable and
// leaves it alone until the completion.
func (s *SQE) Recv(fd int32, buf []byte, flags uint32) {
	*s = SQE{Opcode: IORING_OP_RECV, FD: fd, Addr: Address(buf), Len: uint32(len(buf)), OpFlags: flags}
}

// Fsync prepares an fsync, or an fdatasync when dataOnly is set.
func (s *SQE) Fsync(fd int32, dataOnly bool) {
	*s = SQE{Opcode: IORING_OP_FSYNC, FD: fd}
	if dataOnly {
		s.OpFlags = IORING_FSYNC_DATASYNC
	}
}

// PollAdd prepares a one-shot poll for events (unix.POLLIN and so on).
func (s *SQE) PollAdd(fd int32, events uint32) {
	*s = SQE{Opcode: IORING_OP_POLL_ADD, FD: fd, OpFlags: pollMask(events)}
}

// UringCmd prepares command op of the file's driver. Put the command's argument into Cmd or BigCmd
// afterwards, or its address into Addr.
func (s *SQE) UringCmd(fd int32, op uint32) {
	*s = SQE{Opcode: IORING_OP_URING_CMD, FD: fd, Off: uint64(op)}
}

// Cmd is the command area of a 64-byte entry: bytes 48 to 63.
func (s *SQE) Cmd() []byte { return s.cmd[:] }

// BigCmd is the command area of a 128-byte entry: bytes 48 to 127. Use it only for entries of a
// ring with Options.SQE128: in another ring it overlaps the next entry.
func (s *SQE) BigCmd() []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(s), cmdOffset)), bigSQESize-cmdOffset)
}

// wipe zeroes an entry of the given size.
func (s *SQE) wipe(size uintptr) {
	*s = SQE{}
	if size == bigSQESize {
		*(*SQE)(unsafe.Add(unsafe.Pointer(s), sqeSize)) = SQE{}
	}
}

// Address returns the address of buf's first byte for use in kernel structs, 0 for an empty slice.
// It forces buf's memory off the goroutine's stack, which moves; heap and mapped memory do not.
func Address(buf []byte) uint64 {
	if len(buf) == 0 {
		return 0
	}
	return escape(unsafe.Pointer(&buf[0]))
}

// Words is memory of n*8 bytes, which a mapping has begun, as n numbers in the machine's order of
// bytes: for stores that are whole whatever becomes of the process (sync/atomic).
func Words(b []byte, n int) []uint64 {
	_ = b[:8*n]
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// escape returns p as an integer for kernel structs. The compiler does not track such an integer:
// the store, which never executes, makes it assume that p outlives the call, so p's memory is not
// on a stack.
func escape(p unsafe.Pointer) uint64 {
	if escaped.never {
		escaped.to = p
	}
	return uint64(uintptr(p))
}

var escaped struct {
	never bool
	to    unsafe.Pointer
}

// pollMask swaps the half-words of events on big-endian machines, as poll32_events requires.
func pollMask(events uint32) uint32 {
	one := uint16(1)
	if *(*byte)(unsafe.Pointer(&one)) == 1 {
		return events
	}
	return events<<16 | events>>16
}
