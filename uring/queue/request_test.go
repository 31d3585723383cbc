package queue

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// pieces plans a request by what a test says.
type pieces struct {
	answerer
	add func(r *Request)
	err error // of Finish
}

func (p *pieces) Start(r *Request) (Action, error) {
	p.add(r)
	return Submit, nil
}

// Finish answers although something may have failed, as a mirror does.
func (p *pieces) Finish(_ *Request, err error) (Action, error) {
	p.err = err
	return Answer, nil
}

// serve takes a request through, with a result for each secondary, 0 for all of its bytes, and returns whether it was
// answered without an error.
func serve(t *testing.T, op Op, p *pieces, results ...int32) (ok bool) {
	t.Helper()
	q, ring := fakeQueue(t, func() Handler { return p }, 1, registered)
	if err := q.request(0, op, 0, 4096); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < ring.n; i++ {
		s := ring.room[i]
		if uring.UserData(s.UserData).Kind() == uring.KindFetch {
			return s.Len != failedLen
		}
		res := int32(s.Len)
		if n := uring.UserData(s.UserData).Index(); int(n) < len(results) && results[n] != 0 {
			res = results[n]
		}
		if err := q.take(&uring.CQE{UserData: s.UserData, Res: res}); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the request was not answered")
	return false
}

// The union of what has succeeded must be all of the request.
func TestCoverage(t *testing.T) {
	const eio = -int32(unix.EIO)
	own := make([]byte, 4096)
	for name, c := range map[string]struct {
		op      Op
		add     func(r *Request)
		results []int32
		want    bool
	}{
		"all":               {OpRead, func(r *Request) { r.Secondary(7, 0, 0, 4096) }, nil, true},
		"two legs":          {OpWrite, func(r *Request) { r.Secondary(7, 0, 0, 4096); r.Secondary(8, 0, 0, 4096) }, nil, true},
		"one leg of two":    {OpWrite, func(r *Request) { r.Secondary(7, 0, 0, 4096); r.Secondary(8, 0, 0, 4096) }, []int32{eio}, true},
		"no leg of two":     {OpWrite, func(r *Request) { r.Secondary(7, 0, 0, 4096); r.Secondary(8, 0, 0, 4096) }, []int32{eio, eio}, false},
		"overlap":           {OpRead, func(r *Request) { r.Secondary(7, 0, 0, 3000); r.Secondary(8, 0, 1000, 3096) }, nil, true},
		"backwards":         {OpRead, func(r *Request) { r.Zeroes(3000, 1096); r.Secondary(7, 0, 1000, 2000); r.Zeroes(0, 1000) }, nil, true},
		"as many, gap":      {OpRead, func(r *Request) { r.Secondary(7, 0, 0, 2048); r.Secondary(7, 0, 0, 2048) }, nil, false},
		"gap at the start":  {OpRead, func(r *Request) { r.Secondary(7, 0, 512, 3584) }, nil, false},
		"gap in the middle": {OpRead, func(r *Request) { r.Zeroes(0, 1024); r.Zeroes(2048, 2048) }, nil, false},
		"gap at the end":    {OpRead, func(r *Request) { r.Secondary(7, 0, 0, 4095) }, nil, false},
		"own memory":        {OpWrite, func(r *Request) { r.Add(uring.Secondary{Op: uring.SecondaryWrite, FD: 7, Mem: own}) }, nil, false},
		"on purpose":        {OpRead, func(r *Request) { r.MoveNothing(); r.Zeroes(0, 512) }, nil, true},
		"no data":           {OpFlush, func(r *Request) { r.Add(uring.Secondary{Op: uring.SecondaryFsync, FD: 7}) }, nil, true},
	} {
		if got := serve(t, c.op, &pieces{add: c.add}, c.results...); got != c.want {
			t.Errorf("%s: answered without an error: %v, want %v", name, got, c.want)
		}
	}
}

// What was taken or filled is accounted for; ranges outside of the request, and the wrong way, are errors.
func TestFillAndTake(t *testing.T) {
	for _, lending := range []buffer{registered, mapped} {
		for _, c := range []struct {
			op   Op
			move func(r *Request, p []byte, off int) error
		}{{OpRead, (*Request).Fill}, {OpWrite, (*Request).Take}} {
			q, _ := fakeQueue(t, func() Handler { return answerer{} }, 1, lending)
			q.copier = &memCopier{}
			r := &q.slots[0].req
			r.Op, r.Len = c.op, 4096
			if lending == mapped {
				r.Mapped(make([]byte, 4096))
			}
			p := make([]byte, 1024)
			for _, bad := range []int{-1, 3073, 1 << 40} {
				if err := c.move(r, p, bad); !errors.Is(err, ErrInvalid) {
					t.Errorf("%v at %d: %v, want ErrInvalid", c.op, bad, err)
				}
			}
			for off := 3072; off >= 0; off -= 1024 {
				if r.covered() {
					t.Errorf("%v: covered before all was moved", c.op)
				}
				if err := c.move(r, p, off); err != nil {
					t.Error(err)
				}
			}
			if !r.covered() {
				t.Errorf("%v: not covered", c.op)
			}
			r.Op = OpRead + OpWrite - c.op
			if err := c.move(r, p, 0); !errors.Is(err, ErrInvalid) {
				t.Errorf("the wrong way: %v, want ErrInvalid", err)
			}
		}
	}
}

type memCopier struct{}

func (*memCopier) CopyIn(uint16, []byte, int) error  { return nil }
func (*memCopier) CopyOut(uint16, []byte, int) error { return nil }

// Links are kept when a plan goes in several turns; a chain that no turn can hold fails the transfer.
func TestLongChains(t *testing.T) {
	for n, want := range map[int]string{maxSecondaries: "", maxSecondaries + 1: "more than 64"} {
		p := &pieces{add: func(r *Request) {
			r.Secondary(7, 0, 0, 4096)
			for i := range n {
				r.Add(uring.Secondary{Op: uring.SecondaryFsync, FD: 7, Link: i < n-1})
			}
		}}
		q, ring := fakeQueue(t, func() Handler { return p }, 1, registered)
		if err := q.request(0, OpRead, 0, 4096); err != nil {
			t.Fatal(err)
		}
		var flying []uring.SQE
		for answered := false; !answered; {
			flying = append(flying, ring.sent...)
			flying = append(flying, ring.room[:ring.n]...)
			ring.sent, ring.n = ring.sent[:0], 0
			s := flying[0]
			flying = flying[1:]
			if answered = uring.UserData(s.UserData).Kind() == uring.KindFetch; answered {
				continue
			}
			if len(flying) > 0 && s.Opcode == uring.IORING_OP_FSYNC {
				t.Fatalf("chain of %d: %d secondaries beside one of the chain", n, len(flying))
			}
			if err := q.take(&uring.CQE{UserData: s.UserData, Res: int32(s.Len)}); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(p.err); (p.err == nil) != (want == "") || want != "" && !errors.Is(p.err, ErrInvalid) {
			t.Errorf("chain of %d: %s, want %q", n, got, want)
		}
	}
}

func TestOps(t *testing.T) {
	for op, want := range map[Op]string{OpRead: "read", OpZoneResetAll: "zone reset all", knownOps: "operation 12", 255: "operation 255"} {
		if op.String() != want || op >= knownOps && op.Data() != NoData {
			t.Errorf("%d is %q with data %d, want %q", op, op, op.Data(), want)
		}
	}
}
