//go:build linux

package uring

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() { implementations[DefaultImplementation] = newMapped }

// mapped is varve's own ring. The kernel shares two mappings: ringMem holds the counters and the
// CQEs, sqeMem the SQEs. The counters are loaded and stored with sync/atomic; sqTail and cqHead are
// the private copies of the two counters that this process writes.
type mapped struct {
	tables
	fd       int
	info     Info
	sqeBytes uintptr
	noIOWait uint32 // IORING_ENTER_NO_IOWAIT where the kernel has it
	mayHold  bool   // waits may keep the scheduler's slot

	ringMem []byte
	sqeMem  []byte

	sqHead  *uint32 // kernel writes
	sqFlags *uint32 // kernel writes
	sqKTail *uint32 // this process writes
	cqTail  *uint32 // kernel writes
	cqKHead *uint32 // this process writes

	sqes    unsafe.Pointer
	cqes    unsafe.Pointer
	sqTail  uint32 // entries handed out
	cqHead  uint32 // completions reaped
	entries uint32 // 0 once closed

	lost error // the error of an enter inside Reap; the next enter returns it

	interrupted uint64 // waits that returned too early
	blocking    uint64 // enters through Syscall6

	arg geteventsArg
	ts  kernelTimespec
}

func newMapped(o Options) (Ring, error) {
	p := newParams(o)
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(o.Entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, setupError(errno)
	}
	r := &mapped{
		fd:       int(fd),
		info:     Info{FD: int(fd), SQEntries: p.sqEntries, CQEntries: p.cqEntries, Features: p.features},
		sqeBytes: sqeSize,
		entries:  p.sqEntries,
		mayHold:  !strings.Contains(os.Getenv("GODEBUG"), "asyncpreemptoff=1"),
	}
	if o.SQE128 {
		r.sqeBytes = bigSQESize
	}
	if p.features&IORING_FEAT_NO_IOWAIT != 0 {
		r.noIOWait = IORING_ENTER_NO_IOWAIT
	}
	r.tables = tables{func(op uint32, arg unsafe.Pointer, n uint32) unix.Errno {
		if r.fd < 0 { // the descriptor may be another file's by now
			return unix.EBADF
		}
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, fd, uintptr(op), uintptr(arg), uintptr(n), 0, 0)
		return errno
	}}
	if err := r.mapRings(&p); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *mapped) mapRings(p *params) error {
	if p.features&requiredFeatures != requiredFeatures {
		return &OpError{Op: "io_uring_setup", Err: fmt.Errorf("%w: features %#x", ErrNoIOUring, p.features)}
	}
	size := max(uintptr(p.sqOff.array)+uintptr(p.sqEntries)*4,
		uintptr(p.cqOff.cqes)+uintptr(p.cqEntries)*unsafe.Sizeof(CQE{}))
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	var err error
	if r.ringMem, err = unix.Mmap(r.fd, IORING_OFF_SQ_RING, int(size), prot, flags); err != nil {
		return &OpError{Op: "map ring", Err: err}
	}
	if r.sqeMem, err = unix.Mmap(r.fd, IORING_OFF_SQES, int(uintptr(p.sqEntries)*r.sqeBytes), prot, flags); err != nil {
		return &OpError{Op: "map submission entries", Err: err}
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.ringMem[off])) }
	r.sqHead, r.sqKTail, r.sqFlags = word(p.sqOff.head), word(p.sqOff.tail), word(p.sqOff.flags)
	r.cqKHead, r.cqTail = word(p.cqOff.head), word(p.cqOff.tail)
	r.sqes, r.cqes = unsafe.Pointer(&r.sqeMem[0]), unsafe.Pointer(&r.ringMem[p.cqOff.cqes])
	r.sqTail, r.cqHead = atomic.LoadUint32(r.sqKTail), atomic.LoadUint32(r.cqKHead)
	// The array between counters and entries is filled once: slot i is entry i.
	for i := range p.sqEntries {
		*word(p.sqOff.array + 4*i) = i
	}
	return nil
}

func (r *mapped) Info() Info { return r.info }

func (r *mapped) GetSQE() *SQE {
	if r.entries == 0 || r.sqTail-atomic.LoadUint32(r.sqHead) >= r.entries {
		return nil
	}
	s := (*SQE)(unsafe.Add(r.sqes, uintptr(r.sqTail&(r.entries-1))*r.sqeBytes))
	s.wipe(r.sqeBytes)
	r.sqTail++
	return s
}

func (r *mapped) Reap(cqes []CQE) int {
	if r.entries == 0 {
		return 0
	}
	n := r.pop(cqes)
	if n == 0 && len(cqes) > 0 && atomic.LoadUint32(r.sqFlags)&(IORING_SQ_CQ_OVERFLOW|IORING_SQ_TASKRUN) != 0 {
		// Overflowed or deferred completions need an enter. It submits nothing: the caller may
		// still be filling queued entries.
		errno := unix.EINTR
		for errno == unix.EINTR {
			_, errno = r.enterRaw(0, 0, IORING_ENTER_GETEVENTS)
		}
		if errno != 0 {
			r.lost = opError(enterOp, errno)
		}
		n = r.pop(cqes)
	}
	return n
}

func (r *mapped) pop(cqes []CQE) int {
	n := min(r.ready(), uint32(len(cqes)))
	if n == 0 {
		return 0
	}
	mask := r.info.CQEntries - 1
	for i := range n {
		cqes[i] = *(*CQE)(unsafe.Add(r.cqes, uintptr((r.cqHead+i)&mask)*unsafe.Sizeof(CQE{})))
	}
	r.cqHead += n
	atomic.StoreUint32(r.cqKHead, r.cqHead)
	return int(n)
}

// ready returns the number of completions that can be reaped without an enter.
func (r *mapped) ready() uint32 { return atomic.LoadUint32(r.cqTail) - r.cqHead }

// publish makes the queued entries visible to the kernel, and returns how many the kernel has not
// taken.
func (r *mapped) publish() uint32 {
	atomic.StoreUint32(r.sqKTail, r.sqTail)
	return r.sqTail - atomic.LoadUint32(r.sqHead)
}

// takeLost returns the error that Reap met, and clears it.
func (r *mapped) takeLost() error {
	err := r.lost
	r.lost = nil
	return err
}

func (r *mapped) Close() error {
	if r.fd < 0 {
		return nil
	}
	r.entries = 0
	var errs []error
	for _, mem := range []*[]byte{&r.sqeMem, &r.ringMem} {
		if *mem != nil {
			errs = append(errs, os.NewSyscallError("munmap", unix.Munmap(*mem)))
			*mem = nil
		}
	}
	errs = append(errs, os.NewSyscallError("close", unix.Close(r.fd)))
	r.fd = -1
	return errors.Join(errs...)
}

// timeout fills in the argument of a timed enter. Both structs live in r, which is on the heap, so
// that the call allocates nothing.
func (r *mapped) timeout(d time.Duration) unsafe.Pointer {
	d = max(d, 0)
	r.ts = kernelTimespec{sec: int64(d / time.Second), nsec: int64(d % time.Second)}
	r.arg = geteventsArg{ts: uint64(uintptr(unsafe.Pointer(&r.ts)))}
	return unsafe.Pointer(&r.arg)
}
