//go:build linux

package uring

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// SocketBuffers says which socket operations take a registered buffer: IORING_RECVSEND_FIXED_BUF.
type SocketBuffers struct {
	SendZC bool // Linux 6.0
	Recv   bool // Linux 7.3 has it, 6.18 answers EINVAL
}

// ProbeSocketBuffers asks the kernel, once a process.
var ProbeSocketBuffers = sync.OnceValues(probeSocketBuffers)

func probeSocketBuffers() (b SocketBuffers, err error) {
	r, err := New(Options{Entries: 8})
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	mem := make([]byte, 64)
	if err := r.RegisterBuffers([][]byte{mem}); err != nil {
		return b, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return b, fmt.Errorf("make sockets for a probe: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(pair[0]), unix.Close(pair[1])) }()
	if _, err := unix.Write(pair[1], mem); err != nil { // what RECV is to receive
		return b, fmt.Errorf("write to a socket: %w", err)
	}
	if b.SendZC, err = takesBuffer(r, IORING_OP_SEND_ZC, int32(pair[0]), mem); err != nil {
		return b, err
	}
	b.Recv, err = takesBuffer(r, IORING_OP_RECV, int32(pair[0]), mem)
	return b, err
}

// takesBuffer reports whether an operation on a registered buffer is known. The sockets are of
// AF_UNIX, which needs no network, and on which a known SEND_ZC is EOPNOTSUPP.
func takesBuffer(r Ring, op uint8, fd int32, mem []byte) (bool, error) {
	sqe, err := NextSQE(r)
	if err != nil {
		return false, err
	}
	*sqe = SQE{Opcode: op, FD: fd, Addr: Address(mem), Len: uint32(len(mem)), IOPrio: IORING_RECVSEND_FIXED_BUF}
	known := false
	for more := true; more; {
		if err := r.SubmitAndWait(1, WaitHandoff); err != nil && !Transient(err) {
			return false, err
		}
		var cqes [4]CQE
		for _, c := range cqes[:r.Reap(cqes[:])] {
			if more = c.Flags&IORING_CQE_F_MORE != 0; c.Flags&IORING_CQE_F_NOTIF == 0 {
				known = unix.Errno(-c.Res) != unix.EINVAL
			}
		}
	}
	return known, nil
}
