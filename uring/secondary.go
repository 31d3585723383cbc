//go:build linux

package uring

// Direction is the way of the data, named as the block request names it.
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
	// Plain moves data to and from memory at Base, with READ, WRITE and SEND, instead of
	// READ_FIXED, WRITE_FIXED and SEND_ZC through BufIndex.
	Plain bool
	// Len is the buffer's length in bytes.
	Len uint32
	// Base is what the kernel calls the buffer's first byte: 0 for a request that ublk lent, the
	// memory's Address otherwise. The owner keeps that memory reachable until the fused request is
	// done.
	Base uint64
}

// SecondaryOp is what a secondary does with its file.
type SecondaryOp uint8

const (
	// SecondaryRead reads from the file at FileOff.
	SecondaryRead SecondaryOp = iota
	// SecondaryWrite writes to the file at FileOff.
	SecondaryWrite
	// SecondaryRecv receives from a socket. Into a registered buffer that needs
	// IORING_RECVSEND_FIXED_BUF for RECV; a kernel without it completes with EINVAL.
	SecondaryRecv
	// SecondarySend sends to a socket; out of a registered buffer by SEND_ZC (Linux 6.0; lent pages
	// 6.15), whose secondary ends when the kernel has released the bytes.
	SecondarySend
	// SecondaryFsync makes the file durable, as fsync(2), or fdatasync(2) with
	// IORING_FSYNC_DATASYNC in Flags. It orders nothing: Link puts it behind the writes.
	SecondaryFsync
	// SecondaryFallocate is fallocate(2) of Len bytes at FileOff with the mode in Flags.
	SecondaryFallocate

	secondaryOps
)

var secondaryNames = [secondaryOps]string{"read", "write", "recv", "send", "fsync", "fallocate"}

func (o SecondaryOp) String() string { return secondaryNames[o] }

// moves reports whether the operation moves bytes; fills, whether from the file into memory.
func (o SecondaryOp) moves() bool { return o <= SecondarySend }
func (o SecondaryOp) fills() bool { return o == SecondaryRead || o == SecondaryRecv }

// Secondary is one operation of a fused request: a transfer between a file and a part of the
// primary's buffer, or memory of the owner's, or an operation on a file that moves nothing. Its
// unexported fields are those of its run; Moved and Err read them.
type Secondary struct {
	Op SecondaryOp
	// FixedFile says that FD is a slot of Registrar.RegisterFiles.
	FixedFile bool
	// Link starts the next secondary only when this one has succeeded in full. After a failure what
	// is linked behind it fails with ErrCancelled.
	Link bool

	state   secondaryState
	retries uint8
	notify  bool // sent; the kernel still has the bytes

	FD int32
	// Flags of the operation: RWF_*, MSG_*, IORING_FSYNC_*, FALLOC_FL_*.
	Flags uint32
	// FileOff, BufOff and Len are bytes.
	FileOff uint64
	BufOff  uint32
	Len     uint32
	// Mem is memory of the owner's to move instead of a part of the primary's buffer; Len is that
	// of Mem then. The direction of the primary does not matter to it.
	Mem []byte

	moved uint32
	sent  int32 // result of a send that notify waits for
	err   error
}

// secondaryState tells the owner of a secondary's bytes.
type secondaryState uint8

const (
	secondaryOurs   secondaryState = iota // not begun, transferred, failed or cancelled
	secondaryKernel                       // its entry is queued or in flight
)

// Moved is how many bytes were moved, once the fused request is done.
func (s *Secondary) Moved() int { return int(s.moved) }

// Err is nil when all of the secondary was done.
func (s *Secondary) Err() error { return s.err }

// Lent reports whether the bytes are a part of the primary's buffer.
func (s *Secondary) Lent() bool { return s.Op.moves() && s.Mem == nil }
