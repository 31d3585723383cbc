//go:build linux

package uring

// Direction is the direction of a transfer, named from the block request's point of view.
type Direction uint8

const (
	// DirRead moves data from files into the primary's buffer.
	DirRead Direction = iota
	// DirWrite moves data from the primary's buffer into files.
	DirWrite
)

func (d Direction) String() string {
	if d == DirWrite {
		return "write"
	}
	return "read"
}

// Primary is the request whose buffer the secondaries share.
type Primary struct {
	Dir Direction
	// BufIndex is the buffer's slot in the ring's table.
	BufIndex uint16
	// Plain moves data with READ and WRITE to memory at Base, instead of READ_FIXED and WRITE_FIXED
	// through BufIndex.
	Plain bool
	// Len is the buffer's length in bytes.
	Len uint32
	// Base is the address that the kernel expects for the buffer's first byte: 0 for a request that
	// ublk lent, the memory's Address otherwise. The owner keeps that memory reachable until the
	// fused request is complete.
	Base uint64
}

// Secondary is one transfer between a file and a part of the primary's buffer.
type Secondary struct {
	Dir Direction
	// FixedFile means that FD is a slot of Registrar.RegisterFiles.
	FixedFile bool
	FD        int32
	// FileOff, BufOff and Len are in bytes.
	FileOff uint64
	BufOff  uint32
	Len     uint32
	// RWFlags are RWF_* (unix.RWF_DSYNC and so on).
	RWFlags uint32
}
