package queue

import (
	"fmt"

	"varve/uring"
)

// maxSecondaries of one request are in flight together; a plan with more goes in turns.
const maxSecondaries = 64

// transfer moves what was added to the request since the last transfer. pending: secondaries are in
// flight, and transferred continues. Else the transfer has ended, and err is the first error of it.
func (q *Queue) transfer(s *slot) (pending bool, err error) {
	s.err = nil
	if err := q.readyMemory(&s.req); err != nil {
		return false, err
	}
	return q.startSecondaries(s), s.err
}

// startSecondaries puts the next ones in flight, if there are any. A failure of some does not keep
// the others from being tried: the handler gets a result for each.
func (q *Queue) startSecondaries(s *slot) (pending bool) {
	r := &s.req
	for r.next < len(r.secs) {
		batch := r.batch()
		if batch == nil {
			r.next = len(r.secs)
			s.fail(fmt.Errorf("%w: more than %d secondaries are linked", ErrInvalid, maxSecondaries))
			return false
		}
		r.next += len(batch)
		p := uring.Primary{Dir: directions[r.Op.Data()], BufIndex: s.tag, Len: uint32(r.Len), Base: r.base}
		if r.buffer != registered {
			p.Plain, p.Base = true, uring.Address(r.mem)
		}
		if err := s.fused.Start(q.ring, p, batch); err != nil {
			s.fail(err)
			continue
		}
		s.move(slotIO)
		q.inIO++
		q.count.Secondaries += uint64(len(batch))
		return true
	}
	return false
}

// batch is what is put in flight together. It does not end inside a chain of links; nil: the chain
// is too long.
func (r *Request) batch() []uring.Secondary {
	rest := r.secs[r.next:]
	if len(rest) <= maxSecondaries {
		return rest
	}
	for n := maxSecondaries; n > 0; n-- {
		if !rest[n-1].Link {
			return rest[:n]
		}
	}
	return nil
}

// transferred: the secondaries that were in flight are in.
func (q *Queue) transferred(s *slot, err error) error {
	s.move(slotOurs)
	q.inIO--
	s.fail(err)
	if q.startSecondaries(s) {
		return nil
	}
	a, err := q.finish(s, s.err)
	return q.act(s, a, err)
}

// sent: the kernel has sent a secondary's bytes, and holds them still.
func (q *Queue) sent(s *slot) {
	if h, ok := s.handler.(Sender); ok && s.req.next == len(s.req.secs) && s.fused.Sent() {
		h.Sent(&s.req)
	}
}
