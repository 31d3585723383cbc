package blockdev

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"varve/objstore"
	"varve/uring"
)

// model is a target that covers requests by random pieces, and hands some off, fails some, panics in some.
type model struct{ t *rapid.T }

func (m *model) Limits() Limits {
	return Limits{Size: 1 << 30, BlockSize: 512, Discard: true, Cache: true}
}

func (m *model) NewHandler() Handler {
	return &modelHandler{m: m}
}

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
		if !r.hasData() {
			return Answer, nil
		}
	}
	if !r.hasData() {
		return Answer, nil
	}
	for off := 0; off < r.Len; {
		n := 512 * rapid.IntRange(1, max(1, (r.Len-off)/512)).Draw(h.m.t, "piece")
		if r.Op == OpRead && rapid.IntRange(0, 3).Draw(h.m.t, "hole") == 0 {
			r.Zeroes(off, n)
		} else {
			r.Secondary(7, int64(off), off, n)
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

// shortRing is one whose kernel is short of memory at first. Then the driver takes the fetches back.
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
		q, ring := fakeQueue(t, NewNull(1<<20, 512), 2, zeroCopy)
		q.ring, q.cqes = &shortRing{ring, c.short, 2}, make([]uring.CQE, 1)
		if err := q.serve(); !errors.Is(err, c.want) {
			t.Errorf("%v: the queue ends with %v, want %v", c.short, err, c.want)
		}
	}
}

// Whatever the order of completions, short counts, errors, hand-offs and panics: each request is answered once,
// with its full length or an errno, and only when nothing of it is in flight any more.
func TestQueueProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mode := rapid.SampledFrom([]transferMode{zeroCopy, plainCopy}).Draw(rt, "mode")
		depth := rapid.IntRange(1, 8).Draw(rt, "depth")
		q, ring := fakeQueue(t, &model{t: rt}, depth, mode)
		open := map[uint16]uint32{} // tag -> sectors of the request that we own
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
					cmd := (*ublksrv_io_cmd)(unsafe.Pointer(&s.Cmd()[0]))
					sectors, ok := open[tag]
					if !ok || cmd.tag != tag || s.Off != _UBLK_U_IO_COMMIT_AND_FETCH_REQ {
						rt.Fatalf("commit of tag %d that nobody waits for", tag)
					}
					if slices.ContainsFunc(flying, func(f uring.SQE) bool { return uring.UserData(f.UserData).Tag() == tag }) {
						rt.Fatalf("tag %d is committed while secondaries are in flight", tag)
					}
					h := q.slots[tag].handler.(*modelHandler)
					if full := int32(sectors) << 9; h.failed && cmd.result >= 0 || !h.failed && cmd.result != full {
						rt.Fatalf("tag %d: result %d, length %d, failed %v", tag, cmd.result, full, h.failed)
					}
					if want := uring.Address(q.slots[tag].bounce); mode == plainCopy && cmd.addr != want || mode == zeroCopy && (cmd.addr != 0 || s.Addr != uint64(tag)) {
						rt.Fatalf("tag %d: buffer %#x, sqe address %#x", tag, cmd.addr, s.Addr)
					}
					delete(open, tag)
				default:
				}
			}
			ring.sent = ring.sent[:0]
			for len(q.dev.work) > 0 {
				jobs = append(jobs, <-q.dev.work)
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
			j.s.action, j.s.err = j.run(context.Background())
			j.q.back.put(j.s.tag, &q.wake)
			check(q.woken(8))
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 2).Draw(rt, "step") {
			case 0:
				tag := uint16(rapid.IntRange(0, depth-1).Draw(rt, "tag"))
				if _, ok := open[tag]; ok {
					continue
				}
				op := rapid.SampledFrom([]uint32{0, 0, 1, 1, 2, 3, 5}).Draw(rt, "op")
				sectors := uint32(rapid.IntRange(1, 64).Draw(rt, "sectors"))
				open[tag] = sectors
				if op == _UBLK_IO_OP_FLUSH {
					open[tag] = 0
				}
				check(q.request(tag, op, 0, uint64(rapid.IntRange(0, 1000).Draw(rt, "sector")), sectors))
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
		for len(flying) > 0 || len(jobs) > 0 {
			if len(flying) > 0 {
				complete(0)
			}
			if len(jobs) > 0 {
				work(0)
			}
		}
		if len(open) > 0 || q.inIO != 0 || q.inWork != 0 || q.owned != 0 {
			rt.Fatalf("left over: %v, %d in I/O, %d in work, %d owned", open, q.inIO, q.inWork, q.owned)
		}
	})
}

// A plan with a gap must not reach the driver: it would answer with the bytes that were in the pages before.
func TestQueueGap(t *testing.T) {
	q, ring := fakeQueue(t, &gap{}, 1, zeroCopy)
	if err := q.request(0, _UBLK_IO_OP_READ, 0, 0, 8); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Submit(); err != nil {
		t.Fatal(err)
	}
	if got := (*ublksrv_io_cmd)(unsafe.Pointer(&ring.sent[0].Cmd()[0])).result; got != -int32(unix.EIO) {
		t.Errorf("result %d, want EIO", got)
	}
}

type gap struct{ nullHandler }

func (*gap) Limits() Limits        { return Limits{Size: 1 << 20} }
func (g *gap) NewHandler() Handler { return g }
func (*gap) Start(r *Request) (Action, error) {
	r.Zeroes(0, 512)
	r.Secondary(7, 0, 1024, r.Len-1024)
	return Submit, nil
}

// Requests outside of the disk, and those that nobody asked us to serve, never get to the handler.
func TestQueueBadRequests(t *testing.T) {
	q, ring := fakeQueue(t, NewNull(1<<20, 512), 1, zeroCopy)
	for _, c := range []struct {
		op      uint32
		sector  uint64
		sectors uint32
		want    int32
	}{
		{_UBLK_IO_OP_READ, 2048, 1, -int32(unix.EIO)},
		{_UBLK_IO_OP_READ, 2047, 2, -int32(unix.EIO)},
		{_UBLK_IO_OP_READ, 0, 0, -int32(unix.EIO)},
		{_UBLK_IO_OP_WRITE, 1 << 60, 1, -int32(unix.EIO)},
		{13, 0, 1, -int32(unix.EOPNOTSUPP)},
		{_UBLK_IO_OP_READ, 2047, 1, 512},
	} {
		ring.sent = nil
		if err := q.request(0, c.op, 0, c.sector, c.sectors); err != nil {
			t.Fatal(err)
		}
		if _, err := ring.Submit(); err != nil {
			t.Fatal(err)
		}
		if got := (*ublksrv_io_cmd)(unsafe.Pointer(&ring.sent[0].Cmd()[0])).result; got != c.want {
			t.Errorf("op %d of %d at %d: %d, want %d", c.op, c.sectors, c.sector, got, c.want)
		}
	}
}

// memVolume is a volume of pieces that lie where the request says, with a hole in each.
type memVolume struct {
	hole   bool
	events bytes.Buffer
	busy   error
}

func (*memVolume) Size() int64    { return 1 << 30 }
func (*memVolume) BlockSize() int { return 512 }
func (v *memVolume) Plan(off int64, length int, p *objstore.Plan) error {
	if v.busy != nil {
		return v.busy
	}
	p.Pieces = append(p.Pieces[:0], objstore.Piece{FD: 7, FileOff: off, Len: length / 2},
		objstore.Piece{Hole: v.hole, FD: 8, FileOff: off, BufOff: length / 2, Len: length - length/2})
	return nil
}

func (v *memVolume) Load(context.Context, int64, int) error { v.busy = nil; v.say("load "); return nil }
func (v *memVolume) Release(*objstore.Plan)                 { v.say("release ") }
func (v *memVolume) Reserve(off int64, length int, w *objstore.Write) error {
	if v.busy != nil {
		return v.busy
	}
	*w = objstore.Write{FD: 7, FileOff: off, Off: off, Len: length}
	return nil
}
func (v *memVolume) Commit(*objstore.Write) error { v.say("commit "); return nil }
func (v *memVolume) Abort(*objstore.Write)        { v.say("abort ") }
func (v *memVolume) TryZero(_, _ int64) error {
	if v.busy != nil {
		return v.busy
	}
	v.say("zero ")
	return nil
}
func (v *memVolume) Wait(context.Context) error { v.busy = nil; v.say("wait "); return nil }
func (v *memVolume) Flush() error               { v.say("flush "); return nil }

func (v *memVolume) say(s string) { v.events.WriteString(s) }

// Which calls a request makes of the volume, and in which order.
func TestVolumeCalls(t *testing.T) {
	for _, c := range []struct {
		name   string
		op     uint32
		flags  uint32
		busy   error
		res    int32
		want   string
		result int32
	}{
		{"read", _UBLK_IO_OP_READ, 0, nil, 0, "release ", 4096},
		{"read unloaded", _UBLK_IO_OP_READ, 0, objstore.ErrNotLoaded, 0, "load release ", 4096},
		{"read corrupt", _UBLK_IO_OP_READ, 0, objstore.ErrCorrupt, 0, "", -int32(unix.EIO)},
		{"read failed", _UBLK_IO_OP_READ, 0, nil, -int32(unix.EIO), "release ", -int32(unix.EIO)},
		{"write", _UBLK_IO_OP_WRITE, 0, nil, 0, "commit ", 4096},
		{"write FUA", _UBLK_IO_OP_WRITE, _UBLK_IO_F_FUA, nil, 0, "commit flush ", 4096},
		{"write busy", _UBLK_IO_OP_WRITE, 0, objstore.ErrBusy, 0, "wait commit ", 4096},
		{"write full", _UBLK_IO_OP_WRITE, 0, objstore.ErrNoSpace, 0, "", -int32(unix.ENOSPC)},
		{"write failed", _UBLK_IO_OP_WRITE, _UBLK_IO_F_FUA, nil, -int32(unix.ENOSPC), "abort ", -int32(unix.ENOSPC)},
		{"flush", _UBLK_IO_OP_FLUSH, 0, nil, 0, "flush ", 0},
		{"discard", _UBLK_IO_OP_DISCARD, 0, nil, 0, "zero ", 4096},
		{"discard busy", _UBLK_IO_OP_DISCARD, 0, objstore.ErrBusy, 0, "wait zero ", 4096},
		{"write zeroes", _UBLK_IO_OP_WRITE_ZEROES, _UBLK_IO_F_NOUNMAP, nil, 0, "zero ", 4096},
		{"write zeroes FUA", _UBLK_IO_OP_WRITE_ZEROES, _UBLK_IO_F_FUA, nil, 0, "zero flush ", 4096},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &memVolume{busy: c.busy}
			q, ring := fakeQueue(t, NewVolume(v), 1, zeroCopy)
			if err := q.request(0, c.op, c.flags, 8, 8); err != nil {
				t.Fatal(err)
			}
			for {
				for len(q.dev.work) > 0 {
					j := <-q.dev.work
					j.s.action, j.s.err = j.run(t.Context())
					q.back.put(j.s.tag, &q.wake)
					if err := q.woken(8); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := ring.Submit(); err != nil {
					t.Fatal(err)
				}
				sent := ring.sent
				ring.sent = nil
				done := false
				for _, s := range sent {
					switch u := uring.UserData(s.UserData); u.Kind() {
					case uring.KindFetch:
						done = true
						if got := (*ublksrv_io_cmd)(unsafe.Pointer(&s.Cmd()[0])).result; got != c.result {
							t.Errorf("result %d, want %d", got, c.result)
						}
					case uring.KindSecondary:
						res := c.res
						if res == 0 {
							res = int32(s.Len)
						}
						if err := q.take(&uring.CQE{UserData: s.UserData, Res: res}); err != nil {
							t.Fatal(err)
						}
					default:
					}
				}
				if done {
					break
				}
			}
			if got := v.events.String(); got != c.want {
				t.Errorf("calls %q, want %q", got, c.want)
			}
		})
	}
}

// Serving a request allocates nothing.
func TestServeAllocations(t *testing.T) {
	for _, op := range []uint32{_UBLK_IO_OP_READ, _UBLK_IO_OP_WRITE} {
		q, ring := fakeQueue(t, NewVolume(quiet{&memVolume{}}), 4, zeroCopy)
		ring.sent = make([]uring.SQE, 0, 16)
		if n := testing.AllocsPerRun(1000, func() { serveOne(t, q, ring, op) }); n != 0 {
			t.Errorf("op %d: %v allocations a request, want none", op, n)
		}
	}
}

// quiet is a memVolume that does not take notes.
type quiet struct{ *memVolume }

func (quiet) Release(*objstore.Plan)       {}
func (quiet) Commit(*objstore.Write) error { return nil }

// serveOne takes a request through plan, secondaries and commit.
func serveOne(t testing.TB, q *queue, ring *fakeRing, op uint32) {
	ring.sent, ring.n = ring.sent[:0], 0
	if err := q.request(1, op, 0, 64, 32); err != nil {
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
	for name, op := range map[string]uint32{"read": _UBLK_IO_OP_READ, "write": _UBLK_IO_OP_WRITE} {
		b.Run(name, func(b *testing.B) {
			q, ring := fakeQueue(b, NewVolume(quiet{&memVolume{}}), 4, zeroCopy)
			b.ReportAllocs()
			for b.Loop() {
				serveOne(b, q, ring, op)
			}
		})
	}
}
