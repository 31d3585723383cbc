package queue

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// transfer moves the bytes of a planned request. pending: secondaries are in flight, transferred goes on. Else the
// transfer is done, and err says how it went.
func (q *Queue) transfer(s *slot) (pending bool, err error) {
	r := &s.req
	s.next = 0
	if n := r.covered(); n != r.Len || !r.HasData() {
		return false, fmt.Errorf("%w: the plan covers %d of %d bytes", ErrInvalid, n, r.Len)
	}
	if r.buffer == registered {
		q.zeroRequest(s)
	} else if err := q.readyMemory(s); err != nil {
		return false, err
	}
	if pending, err = q.startSecondaries(s); pending || err != nil {
		return pending, err
	}
	return false, q.handOver(s)
}

// startSecondaries puts the next ones in flight, if there are any.
func (q *Queue) startSecondaries(s *slot) (pending bool, err error) {
	r := &s.req
	if s.next == len(r.secs) {
		return false, nil
	}
	batch := r.secs[s.next:min(len(r.secs), s.next+maxSecondaries)]
	s.next += len(batch)
	p := uring.Primary{Dir: r.direction(), BufIndex: s.tag, Len: uint32(r.Len), Base: r.base}
	if r.buffer != registered {
		p.Plain, p.Base = true, uring.Address(r.mem)
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
// with them in one enter, and measured faster than a pwrite of zeroes by user copy.
func (q *Queue) zeroRequest(s *slot) {
	r := &s.req
	for _, z := range r.zeros {
		r.secs = append(r.secs, uring.Secondary{
			Op: uring.SecondaryRead, FixedFile: true, FD: zeroFile, BufOff: uint32(z.off), Len: uint32(z.len),
		})
	}
}

// readyMemory readies the memory that a request's bytes go through: with the bytes of a write, or with the holes of a
// read.
func (q *Queue) readyMemory(s *slot) error {
	r := &s.req
	q.count.Copied++
	if err := q.takeBuffer(r); err != nil {
		return err
	}
	for _, z := range r.zeros {
		clear(r.mem[z.off : z.off+z.len])
	}
	if r.Op != OpWrite || r.buffer == mapped {
		return nil
	}
	return q.copyIn(s.tag, r.mem[:r.Len])
}

// handOver puts what was read into the request. Mapped memory the driver copies at the commit.
func (q *Queue) handOver(s *slot) error {
	r := &s.req
	if r.buffer != copied || r.Op != OpRead {
		return nil
	}
	return q.copyOut(s.tag, r.mem[:r.Len])
}

func (q *Queue) copyIn(tag uint16, p []byte) error {
	if q.copier == nil {
		return errNoCopier
	}
	return q.copier.CopyIn(tag, p, 0)
}

// copyOut is called by workers too.
func (q *Queue) copyOut(tag uint16, p []byte) error {
	if q.copier == nil {
		return errNoCopier
	}
	return q.copier.CopyOut(tag, p, 0)
}

var errNoCopier = fmt.Errorf("%w: the driver can't copy a request's bytes", ErrInvalid)

// anonymous maps n bytes, page-aligned as O_DIRECT files want it; only what is touched takes memory.
func anonymous(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes for copies: %w", n, err)
	}
	return b, nil
}

// takeBuffer gives a request a bounce buffer until it is answered. The last one given back comes first: it is in the
// processor's caches, and those that are never needed never take memory. A mapped request has its own memory.
func (q *Queue) takeBuffer(r *Request) error {
	if r.mem != nil {
		return nil
	}
	if n := len(q.buffers); n > 0 {
		r.mem, q.buffers = q.buffers[n-1], q.buffers[:n-1]
		return nil
	}
	b, err := anonymous(q.server.opts.MaxIO)
	if err != nil {
		return err
	}
	q.mapped = append(q.mapped, b)
	r.mem = b
	return nil
}

// giveBuffer takes the bounce buffer back when the request is answered.
func (q *Queue) giveBuffer(r *Request) {
	if r.buffer == copied && r.mem != nil {
		q.buffers = append(q.buffers, r.mem)
	}
	r.mem = nil
}

// unmapMemory returns all bounce buffers to the system.
func (q *Queue) unmapMemory() error {
	var errs []error
	for _, b := range q.mapped {
		errs = append(errs, unix.Munmap(b))
	}
	return errors.Join(errs...)
}
