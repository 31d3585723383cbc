package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"varve/uring"
)

// model makes handlers that cover requests by random pieces, and hand some off, fail some, panic in
// some.
type model struct{ t *rapid.T }

func (m *model) newHandler() Handler { return &modelHandler{m: m} }

type modelHandler struct {
	m        *model
	submits  int
	finishes int
	failed   bool
	busy     bool
}

var errModel = errors.New("model")

func (h *modelHandler) enter() {
	if h.busy {
		h.m.t.Fatal("a handler is called while it runs")
	}
}

func (h *modelHandler) next(r *Request) (Action, error) {
	switch rapid.IntRange(0, 11).Draw(h.m.t, "action") {
	case 0:
		return Handoff, nil
	case 1:
		h.failed = true
		return Answer, errModel
	case 2:
		h.failed = true
		panic("model")
	case 3:
		if !r.HasData() {
			return Answer, nil
		}
	case 4:
		return Hold, nil
	}
	if !r.HasData() {
		return Answer, nil
	}
	for off := 0; off < r.Len; {
		n := 512 * rapid.IntRange(1, max(1, (r.Len-off)/512)).Draw(h.m.t, "piece")
		if r.Op == OpRead && rapid.IntRange(0, 3).Draw(h.m.t, "hole") == 0 {
			r.Zeroes(off, n)
		} else {
			early := 512 * rapid.IntRange(0, off/512).Draw(h.m.t, "overlap") // covered twice
			r.Secondary(7, int64(off), off-early, n+early)
		}
		off += n
	}
	h.submits++
	return Submit, nil
}

func (h *modelHandler) Start(r *Request) (Action, error) {
	h.enter()
	h.failed = false
	return h.next(r)
}

func (h *modelHandler) Work(_ context.Context, r *Request) (Action, error) {
	h.enter()
	if rapid.Bool().Draw(h.m.t, "again") {
		return Again, nil
	}
	return h.next(r)
}

func (h *modelHandler) Finish(_ *Request, err error) (Action, error) {
	h.enter()
	h.finishes++
	if h.finishes != h.submits {
		h.m.t.Fatalf("%d finishes of %d submits", h.finishes, h.submits)
	}
	h.failed = h.failed || err != nil
	return Answer, err
}

func (h *modelHandler) Drop(*Request) {}

// shortRing is one whose kernel is short of memory at first. Then the driver takes the fetches
// back.
type shortRing struct {
	*fakeRing
	short []error
	depth int
}

func (r *shortRing) SubmitAndWait(uint32, uring.WaitMode) error {
	if len(r.short) == 0 {
		return nil
	}
	err := r.short[0]
	r.short = r.short[1:]
	return &uring.OpError{Op: "io_uring_enter", Err: err}
}

func (r *shortRing) Reap(cqes []uring.CQE) int {
	if len(r.short) > 0 || r.depth == 0 {
		return 0
	}
	r.depth--
	cqes[0] = uring.CQE{UserData: uint64(uring.Pack(uring.KindFetch, 0, 0, uint16(r.depth))), Res: -int32(unix.ENODEV)}
	return 1
}

// A kernel that is short of memory for a moment ends no queue; one that has lost completions does.
func TestQueueShortOfMemory(t *testing.T) {
	for _, c := range []struct {
		short []error
		want  error
	}{{[]error{unix.EAGAIN, unix.EBUSY, unix.EAGAIN}, nil}, {[]error{unix.EAGAIN, unix.EBADR}, unix.EBADR}} {
		q, ring := fakeQueue(t, func() Handler { return answerer{} }, 2, registered)
		q.ring, q.cqes = &shortRing{ring, c.short, 2}, make([]uring.CQE, 1)
		if err := q.serve(); !errors.Is(err, c.want) {
			t.Errorf("%v: the queue ends with %v, want %v", c.short, err, c.want)
		}
	}
}

// Whatever the order of completions, short counts, errors, hand-offs and panics: each request is
// answered once, with its full length or an errno, and only when nothing of it is in flight any
// more.
func TestQueueProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		lending := rapid.SampledFrom([]buffer{registered, mapped}).Draw(rt, "lending")
		depth := rapid.IntRange(1, 8).Draw(rt, "depth")
		q, ring := fakeQueue(t, (&model{t: rt}).newHandler, depth, lending)
		open := map[uint16]int{} // tag -> length of the request that we own
		var flying []uring.SQE
		var jobs []job
		drain := func() {
			if _, err := ring.Submit(); err != nil {
				rt.Fatal(err)
			}
			for _, s := range ring.sent {
				u := uring.UserData(s.UserData)
				switch u.Kind() {
				case uring.KindSecondary:
					flying = append(flying, s)
				case uring.KindFetch:
					tag := u.Tag()
					length, ok := open[tag]
					if !ok || s.Off != commitOp || s.Addr != uint64(tag) {
						rt.Fatalf("commit of tag %d that nobody waits for", tag)
					}
					if slices.ContainsFunc(flying, func(f uring.SQE) bool { return uring.UserData(f.UserData).Tag() == tag }) {
						rt.Fatalf("tag %d is committed while secondaries are in flight", tag)
					}
					h := q.slots[tag].handler.(*modelHandler)
					if failed := s.Len == failedLen; h.failed != failed || !failed && s.Len != uint32(length) {
						rt.Fatalf("tag %d: answered with %d, length %d, failed %v", tag, s.Len, length, h.failed)
					}
					delete(open, tag)
				default:
				}
			}
			ring.sent = ring.sent[:0]
			for len(q.server.work) > 0 {
				jobs = append(jobs, <-q.server.work)
			}
		}
		check := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
			drain()
		}
		complete := func(i int) {
			s := flying[i]
			flying = slices.Delete(flying, i, i+1)
			res := int32(s.Len)
			switch rapid.IntRange(0, 9).Draw(rt, "result") {
			case 0:
				res = int32(rapid.IntRange(1, int(s.Len)).Draw(rt, "short"))
			case 1:
				res = -int32(unix.EIO)
			}
			check(q.take(&uring.CQE{UserData: s.UserData, Res: res}))
		}
		work := func(i int) {
			j := jobs[i]
			jobs = slices.Delete(jobs, i, i+1)
			a, err := j.run(context.Background())
			j.q.back.put(result{tag: j.s.tag, action: a, err: err}, &j.q.wake)
			check(q.woken(8))
		}
		// resume resumes the first held request, on the queue's thread or from elsewhere.
		resume := func() {
			for i := range q.slots {
				if s := &q.slots[i]; s.state == slotHeld {
					if rapid.Bool().Draw(rt, "post") {
						s.req.Post(Again, nil)
						check(q.woken(8))
					} else {
						q.Resume(&s.req, Again, nil)
						check(q.take(&uring.CQE{}))
					}
					return
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 3:
				resume()
			case 0:
				tag := uint16(rapid.IntRange(0, depth-1).Draw(rt, "tag"))
				if _, ok := open[tag]; ok {
					continue
				}
				op := rapid.SampledFrom([]Op{OpRead, OpRead, OpWrite, OpWrite, OpFlush, OpDiscard, OpWriteZeroes}).Draw(rt, "op")
				length := 512 * rapid.IntRange(1, 64).Draw(rt, "sectors")
				if op == OpFlush {
					length = 0
				}
				open[tag] = length
				check(q.request(tag, op, 512*int64(rapid.IntRange(0, 1000).Draw(rt, "sector")), length))
			case 1:
				if len(flying) > 0 {
					complete(rapid.IntRange(0, len(flying)-1).Draw(rt, "which"))
				}
			default:
				if len(jobs) > 0 {
					work(rapid.IntRange(0, len(jobs)-1).Draw(rt, "job"))
				}
			}
		}
		for len(flying) > 0 || len(jobs) > 0 || q.held > 0 {
			if q.held > 0 {
				resume()
			}
			if len(flying) > 0 {
				complete(0)
			}
			if len(jobs) > 0 {
				work(0)
			}
		}
		if len(open) > 0 || q.inIO != 0 || q.inWork != 0 || q.held != 0 || q.owned != 0 {
			rt.Fatalf("left over: %v, %d in I/O, %d in work, %d owned", open, q.inIO, q.inWork, q.owned)
		}
	})
}

// A plan with a gap must not reach the driver: it would answer with the bytes that were in the
// pages before.
func TestQueueGap(t *testing.T) {
	q, ring := fakeQueue(t, func() Handler { return gap{} }, 1, registered)
	if err := q.request(0, OpRead, 0, 4096); err != nil {
		t.Fatal(err)
	}
	for i := range ring.n {
		s := &ring.room[i]
		if err := q.take(&uring.CQE{UserData: s.UserData, Res: int32(s.Len)}); err != nil {
			t.Fatal(err)
		}
	}
	if last := ring.room[ring.n-1]; ring.n != 3 || last.Off != commitOp || last.Len != failedLen {
		t.Errorf("%d entries, the last %+v; want two transfers and a commit with an error", ring.n, last)
	}
}

// answerer answers at once.
type answerer struct{}

func (answerer) Start(r *Request) (Action, error) {
	r.MoveNothing()
	return Answer, nil
}
func (answerer) Finish(_ *Request, err error) (Action, error)   { return Answer, err }
func (answerer) Work(context.Context, *Request) (Action, error) { return Answer, nil }
func (answerer) Drop(*Request)                                  {}

type gap struct{ answerer }

func (gap) Start(r *Request) (Action, error) {
	r.Zeroes(0, 512)
	r.Secondary(7, 0, 1024, r.Len-1024)
	return Submit, nil
}

// What the driver describes as an error is its answer, and never gets to the handler.
func TestQueueBadRequest(t *testing.T) {
	q, ring := fakeQueue(t, func() Handler { return answerer{} }, 1, registered)
	for off, want := range map[int64]uint32{-512: failedLen, 0: 512} {
		ring.sent = nil
		if err := q.request(0, OpRead, off, 512); err != nil {
			t.Fatal(err)
		}
		if _, err := ring.Submit(); err != nil {
			t.Fatal(err)
		}
		if len(ring.sent) != 1 || ring.sent[0].Len != want {
			t.Errorf("at %d: sent %+v, want a commit of %d", off, ring.sent, want)
		}
	}
	if q.count.Errors != 1 || q.count.Reads != 1 {
		t.Errorf("counted %+v", q.count)
	}
}

// A queue whose driver can't go on ends with the driver's error.
func TestQueueBroken(t *testing.T) {
	q, _ := fakeQueue(t, func() Handler { return answerer{} }, 1, registered)
	q.driver = brokenDriver{q.driver.(*fakeDriver)}
	err := q.take(&uring.CQE{UserData: uint64(uring.Pack(uring.KindFetch, 0, 0, 0))})
	if !errors.Is(err, ErrBroken) || !errors.Is(err, unix.EBADF) {
		t.Errorf("the queue goes on with %v, want the driver's error", err)
	}
}

type brokenDriver struct{ *fakeDriver }

func (brokenDriver) Describe(uint16, int32, *Request) error {
	return fmt.Errorf("%w: %w", ErrBroken, unix.EBADF)
}

// Serving a request allocates nothing.
func TestServeAllocations(t *testing.T) {
	for _, op := range []Op{OpRead, OpWrite} {
		q, ring := fakeQueue(t, func() Handler { return halves{} }, 4, registered)
		ring.sent = make([]uring.SQE, 0, 16)
		if n := testing.AllocsPerRun(1000, func() { serveOne(t, q, ring, op) }); n != 0 {
			t.Errorf("%v: %v allocations a request, want none", op, n)
		}
	}
}

// halves covers a request by two pieces, and the second of a read by zeroes.
type halves struct{ answerer }

func (halves) Start(r *Request) (Action, error) {
	half := r.Len / 2
	r.Secondary(7, r.Off, 0, half)
	if r.Op == OpRead {
		r.Zeroes(half, r.Len-half)
	} else {
		r.Secondary(7, r.Off+int64(half), half, r.Len-half)
	}
	return Submit, nil
}

// serveOne takes a request through plan, secondaries and commit.
func serveOne(t testing.TB, q *Queue, ring *fakeRing, op Op) {
	ring.sent, ring.n = ring.sent[:0], 0
	if err := q.request(1, op, 64<<9, 32<<9); err != nil {
		t.Fatal(err)
	}
	secs := ring.n
	for i := range secs {
		s := &ring.room[i]
		if err := q.take(&uring.CQE{UserData: s.UserData, Res: int32(s.Len)}); err != nil {
			t.Fatal(err)
		}
	}
	if ring.n != secs+1 {
		t.Fatalf("%d entries for %d secondaries", ring.n, secs)
	}
}

func BenchmarkServe(b *testing.B) {
	for name, op := range map[string]Op{"read": OpRead, "write": OpWrite} {
		b.Run(name, func(b *testing.B) {
			q, ring := fakeQueue(b, func() Handler { return halves{} }, 4, registered)
			b.ReportAllocs()
			for b.Loop() {
				serveOne(b, q, ring, op)
			}
		})
	}
}
