package blockdev

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// CopyMode says how a device's bytes move.
type CopyMode string

// Copy modes.
const (
	CopyAuto  CopyMode = "auto"  // the best that the kernel has
	CopyZero  CopyMode = "zero"  // the request's own pages are the buffer of the target's reads and writes
	CopyUser  CopyMode = "user"  // through a buffer of the daemon, by pread and pwrite on the character device
	CopyPlain CopyMode = "plain" // through a buffer of the daemon that the driver copies from and to
)

// ParseCopyMode reads the name of a copy mode; "" is CopyAuto.
func ParseCopyMode(s string) (CopyMode, error) {
	switch m := CopyMode(s); m {
	case "":
		return CopyAuto, nil
	case CopyAuto, CopyZero, CopyUser, CopyPlain:
		return m, nil
	}
	return "", fmt.Errorf("%w: copy mode %q: not auto, zero, user or plain", ErrInvalid, s)
}

// transferMode is what a device does with requests unless something speaks against it.
type transferMode uint8

const (
	zeroCopy transferMode = iota
	userCopy
	plainCopy
)

var modeNames = [...]CopyMode{zeroCopy: CopyZero, userCopy: CopyUser, plainCopy: CopyPlain}

// chooseMode is the mode to use among the features that a kernel, or a device, has.
func chooseMode(want CopyMode, have uint64) (transferMode, error) {
	switch want {
	case CopyZero:
		if have&_UBLK_F_AUTO_BUF_REG == 0 {
			return 0, unsupported(_UBLK_F_AUTO_BUF_REG, "copy mode zero")
		}
		return zeroCopy, nil
	case CopyUser:
		if have&_UBLK_F_USER_COPY == 0 {
			return 0, unsupported(_UBLK_F_USER_COPY, "copy mode user")
		}
		return userCopy, nil
	case CopyPlain:
		return plainCopy, nil
	case CopyAuto, "":
		switch {
		case have&_UBLK_F_AUTO_BUF_REG != 0:
			return zeroCopy, nil
		case have&_UBLK_F_USER_COPY != 0:
			return userCopy, nil
		}
		return plainCopy, nil
	}
	return 0, fmt.Errorf("%w: copy mode %q", ErrInvalid, want)
}

// transfer moves the bytes of a planned request. pending: secondaries are in flight, transferred goes on. Else it
// is done, and err says how it went.
func (q *queue) transfer(s *slot) (pending bool, err error) {
	r := &s.req
	s.next = 0
	if n := r.covered(); n != r.Len || !r.hasData() {
		return false, fmt.Errorf("%w: the plan covers %d of %d bytes", ErrInvalid, n, r.Len)
	}
	if !s.copies {
		q.zeroRequest(s)
	} else if err := q.copyIn(s); err != nil {
		return false, err
	}
	if pending, err = q.startSecondaries(s); pending || err != nil {
		return pending, err
	}
	return false, q.copyOut(s)
}

// startSecondaries puts the next ones in flight, if there are any.
func (q *queue) startSecondaries(s *slot) (pending bool, err error) {
	if s.next == len(s.req.secs) {
		return false, nil
	}
	batch := s.req.secs[s.next:min(len(s.req.secs), s.next+maxSecondaries)]
	s.next += len(batch)
	p := uring.Primary{Dir: s.req.direction(), BufIndex: s.tag, Len: uint32(s.req.Len)}
	if s.copies {
		p.Plain, p.Base = true, uring.Address(s.bounce)
	}
	if err := s.fused.Start(q.ring, p, batch); err != nil {
		return false, err
	}
	s.move(slotIO)
	q.inIO++
	q.count.Secondaries += uint64(len(batch))
	return true, nil
}

// zeroRequest fills the holes of a read in the request's own pages from /dev/zero, by secondaries like any other:
// with them in one enter, and measured faster than a pwrite of zeroes by user copy (BenchmarkHoles).
func (q *queue) zeroRequest(s *slot) {
	r := &s.req
	for _, z := range r.zeros {
		r.secs = append(r.secs, uring.Secondary{
			Dir: uring.DirRead, FixedFile: true, FD: zeroFile, BufOff: uint32(z.off), Len: uint32(z.len),
		})
	}
}

// copyIn readies the bounce buffer: with the bytes of a write, or with the holes of a read.
func (q *queue) copyIn(s *slot) error {
	r := &s.req
	q.count.Copied++
	if err := q.takeBuffer(s); err != nil {
		return err
	}
	for _, z := range r.zeros {
		clear(s.bounce[z.off : z.off+z.len])
	}
	if r.Op != OpWrite || q.dev.transfer == plainCopy {
		return nil
	}
	for off := 0; off < r.Len; {
		n, err := unix.Pread(q.dev.charFD, s.bounce[off:r.Len], userCopyPos(q.id, s.tag, off))
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("copy from request: %w", err)
		}
		off += max(n, 0)
	}
	return nil
}

// copyOut puts what was read into the request. With plain copy the driver does that at the commit.
func (q *queue) copyOut(s *slot) error {
	r := &s.req
	if !s.copies || r.Op != OpRead || q.dev.transfer == plainCopy {
		return nil
	}
	return q.pwrite(s, s.bounce[:r.Len], 0)
}

// pwrite copies p into the request from off on.
func (q *queue) pwrite(s *slot, p []byte, off int) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(q.dev.charFD, p, userCopyPos(q.id, s.tag, off))
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("copy to request: %w", err)
		}
		n = max(n, 0)
		p, off = p[n:], off+n
	}
	return nil
}

// anonymous maps n bytes, page-aligned as O_DIRECT files want it; only what is touched takes memory.
func anonymous(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes for copies: %w", n, err)
	}
	return b, nil
}

// takeBuffer gives the slot a buffer for the request under way. The last one given back comes first: it is in the
// processor's caches, and those that are never needed never take memory. With plain copy every slot has its own,
// which the driver knows.
func (q *queue) takeBuffer(s *slot) error {
	if s.bounce != nil {
		return nil
	}
	if n := len(q.buffers); n > 0 {
		s.bounce, q.buffers = q.buffers[n-1], q.buffers[:n-1]
		return nil
	}
	b, err := anonymous(q.dev.maxIO)
	if err != nil {
		return err
	}
	q.mapped = append(q.mapped, b)
	s.bounce = b
	return nil
}

// giveBuffer takes the buffer back when the request is answered.
func (q *queue) giveBuffer(s *slot) {
	if s.bounce != nil && q.dev.transfer != plainCopy {
		q.buffers = append(q.buffers, s.bounce)
		s.bounce = nil
	}
}

// unmapMemory gives all buffers back to the system.
func (q *queue) unmapMemory() error {
	var errs []error
	for _, b := range q.mapped {
		errs = append(errs, unix.Munmap(b))
	}
	return errors.Join(errs...)
}
