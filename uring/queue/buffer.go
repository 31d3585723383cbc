package queue

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// readyMemory readies the memory that the request's bytes go through, where that is not their own
// pages: with the bytes of a write, or with the zeroes of a read.
func (q *Queue) readyMemory(r *Request) error {
	if r.buffer == registered || len(r.zeros) == 0 && !r.lends() {
		return nil
	}
	if !r.ready {
		q.count.Copied++
		if err := q.takeBuffer(r); err != nil {
			return err
		}
		if r.buffer == copied && r.Op.Data() == DataOut {
			if err := q.copyIn(r.tag, r.mem[:r.Len], 0); err != nil {
				return err
			}
		}
		r.ready = true
	}
	for _, z := range r.zeros {
		clear(r.mem[z.off : z.off+z.len])
	}
	r.done = append(r.done, r.zeros...)
	r.zeros = r.zeros[:0]
	return nil
}

// lends reports whether a secondary of the next transfer moves bytes of the buffer.
func (r *Request) lends() bool {
	for i := r.next; i < len(r.secs); i++ {
		if r.secs[i].Lent() {
			return true
		}
	}
	return false
}

// handOver copies what was read into a bounce buffer to the request, which is about to be answered.
// Mapped memory the driver copies at the commit.
func (q *Queue) handOver(r *Request) error {
	if r.buffer != copied || !r.ready || r.Op.Data() != DataIn {
		return nil
	}
	if !r.beside {
		return q.copyOut(r.tag, r.mem[:r.Len], 0)
	}
	for i := range r.secs {
		s := &r.secs[i]
		if from, to := s.BufOff, s.BufOff+s.Len; s.Lent() && s.Err() == nil {
			if err := q.copyOut(r.tag, r.mem[from:to], int(from)); err != nil {
				return err
			}
		}
	}
	for _, d := range r.done {
		if d.inMem {
			if err := q.copyOut(r.tag, r.mem[d.off:d.off+d.len], d.off); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyIn and copyOut are called by workers too.

func (q *Queue) copyIn(tag uint16, p []byte, off int) error {
	if q.copier == nil {
		return errNoCopier
	}
	return q.copier.CopyIn(tag, p, off)
}

func (q *Queue) copyOut(tag uint16, p []byte, off int) error {
	if q.copier == nil {
		return errNoCopier
	}
	return q.copier.CopyOut(tag, p, off)
}

var errNoCopier = fmt.Errorf("%w: the driver can't copy a request's bytes", ErrInvalid)

// anonymous maps n bytes, page-aligned as O_DIRECT files want it; only what is touched takes
// memory.
func anonymous(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes for copies: %w", n, err)
	}
	return b, nil
}

// takeBuffer lends a request a bounce buffer until it is answered. The last one returned comes
// first: it is in the processor's caches, and those that are never needed never take memory. A
// mapped request has its own memory.
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

// returnBuffer takes the bounce buffer back when the request is answered.
func (q *Queue) returnBuffer(r *Request) {
	if r.buffer == copied && r.mem != nil {
		q.buffers = append(q.buffers, r.mem)
	}
	r.mem, r.ready = nil, false
}

// unmapMemory returns all bounce buffers to the system.
func (q *Queue) unmapMemory() error {
	var errs []error
	for _, b := range q.mapped {
		errs = append(errs, unix.Munmap(b))
	}
	return errors.Join(errs...)
}
