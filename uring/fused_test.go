//go:build linux

package uring_test

import (
	"errors"
	"io"
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"varve/uring"
)

// simQueue simulates a ring: submitted entries wait until a test completes them.
type simQueue struct {
	size      int
	queued    []*uring.SQE // taken by the owner, not submitted
	submitted []*uring.SQE
	submitErr []error // returned by the next submits, one each
	submits   int
}

func (q *simQueue) GetSQE() *uring.SQE {
	if len(q.queued) == q.size {
		return nil
	}
	q.queued = append(q.queued, new(uring.SQE))
	return q.queued[len(q.queued)-1]
}

func (q *simQueue) Submit() (int, error) {
	q.submits++
	if len(q.submitErr) > 0 {
		err := q.submitErr[0]
		q.submitErr = q.submitErr[1:]
		if err != nil {
			return 0, err
		}
	}
	n := len(q.queued)
	q.submitted = append(q.submitted, q.queued...)
	q.queued = q.queued[:0]
	return n, nil
}

func (q *simQueue) SubmitAndWait(uint32, uring.WaitMode) error {
	_, err := q.Submit()
	return err
}

func (q *simQueue) SubmitAndWaitTimeout(uint32, time.Duration) error { panic("not used by Fused") }

func (q *simQueue) Reap([]uring.CQE) int { panic("not used by Fused") }

// take removes one submitted entry.
func (q *simQueue) take(i int) uring.SQE {
	s := q.submitted[i]
	q.submitted = append(q.submitted[:i], q.submitted[i+1:]...)
	return *s
}

func newFused(t testing.TB, tag uint16, opts uring.FusedOptions) *uring.Fused {
	t.Helper()
	f, err := uring.NewFused(tag, opts)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// one starts a fused read of a single 1000-byte secondary and submits it.
func one(t *testing.T, f *uring.Fused, q *simQueue, dir uring.Direction) {
	t.Helper()
	err := f.Start(q, uring.Primary{Dir: dir, Len: 1000}, []uring.Secondary{{Op: uring.SecondaryOp(dir), FD: 3, Len: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = q.Submit()
}

func TestFusedResults(t *testing.T) {
	const eintr, eagain, eio = -int32(unix.EINTR), -int32(unix.EAGAIN), -int32(unix.EIO)
	const ecanceled = -int32(unix.ECANCELED)
	for name, c := range map[string]struct {
		dir     uring.Direction
		results []int32
		want    error
	}{
		"whole":            {uring.DirRead, []int32{1000}, nil},
		"short":            {uring.DirRead, []int32{1, 998, 1}, nil},
		"short write":      {uring.DirWrite, []int32{400, 600}, nil},
		"end of file":      {uring.DirRead, []int32{0}, uring.ErrUnexpectedEOF},
		"short then end":   {uring.DirRead, []int32{999, 0}, io.ErrUnexpectedEOF},
		"write of nothing": {uring.DirWrite, []int32{500, 0}, uring.ErrShortWrite},
		"error":            {uring.DirRead, []int32{eio}, unix.EIO},
		"short then error": {uring.DirWrite, []int32{10, -int32(unix.ENOSPC)}, unix.ENOSPC},
		"again":            {uring.DirRead, []int32{eintr, eagain, 500, eintr, 500}, nil},
		"no worker":        {uring.DirWrite, []int32{ecanceled, 400, ecanceled, 600}, nil},
		"no worker at all": {uring.DirWrite, []int32{ecanceled, ecanceled, ecanceled, ecanceled}, unix.ECANCELED},
		"again for good":   {uring.DirRead, []int32{eagain, eagain, eagain, eagain}, unix.EAGAIN},
		"too much":         {uring.DirRead, []int32{400, 601}, uring.ErrOverrun},
	} {
		t.Run(name, func(t *testing.T) {
			f, q := newFused(t, 5, uring.FusedOptions{MaxRetries: 3}), &simQueue{size: 4}
			one(t, f, q, c.dir)
			moved := uint32(0)
			for i, res := range c.results {
				if len(q.submitted) != 1 {
					t.Fatalf("%d entries in flight before result %d", len(q.submitted), i)
				}
				s := q.take(0)
				if s.Len != 1000-moved || s.Addr != uint64(moved) || s.Off != uint64(moved) {
					t.Fatalf("entry %d: %+v after %d bytes", i, s, moved)
				}
				done := f.Complete(q, &uring.CQE{UserData: s.UserData, Res: res})
				if last := i == len(c.results)-1; done != last {
					t.Fatalf("done = %v after result %d of %d", done, i, len(c.results))
				}
				if res > 0 {
					moved += uint32(res)
				}
				_, _ = q.Submit()
			}
			if len(q.submitted) != 0 || f.InFlight() != 0 {
				t.Fatal("something is still in flight")
			}
			var op *uring.OpError
			if err := f.Err(); !errors.Is(err, c.want) || err != nil && !errors.As(err, &op) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
		})
	}
}

func TestFusedChecks(t *testing.T) {
	read := uring.Primary{Dir: uring.DirRead, Len: 4096}
	ok := uring.Secondary{Len: 512}
	for name, c := range map[string]struct {
		secs []uring.Secondary
		want error
	}{
		"none":       {nil, uring.ErrNoSecondary},
		"too many":   {[]uring.Secondary{ok, ok, ok}, uring.ErrTooManySecondaries},
		"direction":  {[]uring.Secondary{ok, {Op: uring.SecondaryWrite, Len: 512}}, uring.ErrDirection},
		"empty":      {[]uring.Secondary{{}}, uring.ErrRange},
		"past end":   {[]uring.Secondary{{BufOff: 4095, Len: 2}}, uring.ErrRange},
		"wraps":      {[]uring.Secondary{{BufOff: math.MaxUint32, Len: 2}}, uring.ErrRange},
		"file past":  {[]uring.Secondary{{FileOff: math.MaxInt64, Len: 1}}, uring.ErrRange},
		"file minus": {[]uring.Secondary{{FileOff: math.MaxUint64, Len: 1}}, uring.ErrRange},
	} {
		f, q := newFused(t, 0, uring.FusedOptions{MaxSecondaries: 2}), &simQueue{size: 8}
		if err := f.Start(q, read, c.secs); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if len(q.queued) != 0 || f.InFlight() != 0 {
			t.Errorf("%s: entries were queued", name)
		}
		if err := f.Start(q, read, []uring.Secondary{ok, ok}); err != nil {
			t.Errorf("%s: not usable afterwards: %v", name, err)
		}
		if err := f.Start(q, read, []uring.Secondary{ok}); !errors.Is(err, uring.ErrBusy) {
			t.Errorf("%s: second start: %v", name, err)
		}
	}
	for _, o := range []uring.FusedOptions{{MaxSecondaries: -1}, {MaxSecondaries: uring.MaxSecondaries + 1}, {MaxRetries: 256}, {MaxRetries: -1}} {
		if _, err := uring.NewFused(0, o); err == nil {
			t.Errorf("options %+v were accepted", o)
		}
	}
}

// TestFusedStale passes completions that belong to nothing in flight.
func TestFusedStale(t *testing.T) {
	f, q := newFused(t, 5, uring.FusedOptions{}), &simQueue{size: 4}
	one(t, f, q, uring.DirRead)
	u := uring.UserData(q.take(0).UserData)
	if f.Complete(q, &uring.CQE{UserData: uint64(uring.Pack(uring.KindFetch, u.Generation(), 0, 5)), Res: 1000}) ||
		f.Complete(q, &uring.CQE{UserData: uint64(uring.Pack(u.Kind(), u.Generation(), 0, 6)), Res: 1000}) ||
		f.Complete(q, &uring.CQE{UserData: uint64(uring.Pack(u.Kind(), u.Generation(), 1, 5)), Res: 1000}) ||
		f.Complete(q, &uring.CQE{UserData: uint64(uring.Pack(u.Kind(), u.Generation()-1, 0, 5)), Res: 1000}) {
		t.Fatal("a foreign completion completed the request")
	}
	if !f.Complete(q, &uring.CQE{UserData: uint64(u), Res: 1000}) || f.Complete(q, &uring.CQE{UserData: uint64(u), Res: 1000}) {
		t.Fatal("not done exactly once")
	}
	one(t, f, q, uring.DirRead)
	if f.Complete(q, &uring.CQE{UserData: uint64(u), Res: 1000}) || f.InFlight() != 1 || f.Stale() != 6 {
		t.Fatalf("a completion of the last use counted: in flight %d, stale %d", f.InFlight(), f.Stale())
	}
}

// TestFusedRefused has the ring refuse entries in the middle of a start.
func TestFusedRefused(t *testing.T) {
	secs := []uring.Secondary{{Len: 512}, {Len: 512}, {Len: 512}}
	p := uring.Primary{Len: 512}
	broken := &uring.OpError{Op: "io_uring_enter", Err: unix.EBADF}

	f, q := newFused(t, 1, uring.FusedOptions{}), &simQueue{size: 2, submitErr: []error{broken}}
	if err := f.Start(q, p, secs); err != nil {
		t.Fatalf("two secondaries are in flight, but start returned %v", err)
	}
	_, _ = q.Submit()
	for i := range 2 {
		if done := f.Complete(q, &uring.CQE{UserData: q.take(0).UserData, Res: 512}); done != (i == 1) {
			t.Fatalf("done = %v after %d", done, i)
		}
	}
	if err := f.Err(); !errors.Is(err, unix.EBADF) {
		t.Fatalf("error %v", err)
	}

	f, q = newFused(t, 1, uring.FusedOptions{}), &simQueue{size: 0, submitErr: []error{broken}}
	if err := f.Start(q, p, secs); !errors.Is(err, unix.EBADF) || f.InFlight() != 0 {
		t.Fatalf("nothing could be queued, but start returned %v", err)
	}

	busy := &uring.OpError{Op: "io_uring_enter", Err: unix.EBUSY}
	f, q = newFused(t, 1, uring.FusedOptions{}), &simQueue{size: 1, submitErr: []error{busy, busy, busy, nil}}
	if err := f.Start(q, p, secs); err != nil {
		t.Fatal(err)
	}
	_, _ = q.Submit()
	if len(q.submitted) != 3 {
		t.Fatalf("%d of 3 survived a busy ring", len(q.submitted))
	}

	f, q = newFused(t, 1, uring.FusedOptions{}), &simQueue{size: 0}
	if err := f.Start(q, p, secs); !errors.Is(err, unix.EBUSY) || q.submits > 1000 {
		t.Fatalf("a ring without room: %v after %d submits", err, q.submits)
	}
}

// TestFusedProperty runs random requests on a random kernel that completes in any order, with short
// results, retries and errors. Every request completes exactly once, after its last part. Without
// an error, every byte of every secondary was moved once between the right offsets. The first error
// is kept, each secondary has its own result, and a failure stops only what is linked behind it.
func TestFusedProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, err := uring.NewFused(9, uring.FusedOptions{MaxSecondaries: 16, MaxRetries: 4})
		if err != nil {
			t.Fatal(err)
		}
		q := &simQueue{size: rapid.IntRange(1, 5).Draw(t, "queue")}
		for range rapid.IntRange(1, 3).Draw(t, "uses") {
			oneUse(t, f, q)
		}
		if f.Stale() != 0 {
			t.Fatalf("%d stale completions", f.Stale())
		}
	})
}

func oneUse(t *rapid.T, f *uring.Fused, q *simQueue) {
	p := uring.Primary{
		Dir: uring.Direction(rapid.IntRange(0, 1).Draw(t, "dir")), BufIndex: 9,
		Len: 1 << 16, Base: uint64(rapid.IntRange(0, 1).Draw(t, "base")) << 40,
	}
	secs := make([]uring.Secondary, rapid.IntRange(1, 16).Draw(t, "secondaries"))
	moved := make([]uint32, len(secs))
	retries := make([]int, len(secs))
	failed := make([]error, len(secs))
	for i := range secs {
		secs[i] = uring.Secondary{
			Op: uring.SecondaryOp(p.Dir), FD: int32(i), FileOff: uint64(i) << 32, BufOff: uint32(i) << 12,
			Len: uint32(rapid.IntRange(1, 4096).Draw(t, "len")), Link: rapid.IntRange(0, 2).Draw(t, "link") == 0,
		}
	}
	if err := f.Start(q, p, secs); err != nil {
		t.Fatal(err)
	}
	var first error
	for done := false; !done; {
		_, _ = q.Submit()
		if len(q.submitted) == 0 {
			t.Fatal("not done, and nothing is in flight")
		}
		s := q.take(rapid.IntRange(0, len(q.submitted)-1).Draw(t, "which"))
		i := int(uring.UserData(s.UserData).Index())
		m := moved[i]
		if s.FD != int32(i) || s.BufIndex != 9 || s.Len != secs[i].Len-m ||
			s.Off != secs[i].FileOff+uint64(m) || s.Addr != p.Base+uint64(secs[i].BufOff+m) {
			t.Fatalf("entry %+v of %+v after %d bytes", s, secs[i], m)
		}
		if i > 0 && secs[i-1].Link && moved[i-1] != secs[i-1].Len {
			t.Fatalf("secondary %d started before the end of the one that it is linked behind", i)
		}
		res := int32(rapid.IntRange(1, int(s.Len)).Draw(t, "res"))
		switch rapid.IntRange(0, 19).Draw(t, "result") {
		case 0:
			res = -int32(unix.EIO)
		case 1:
			res = -int32(unix.ENOSPC)
		case 2, 3, 4:
			res = -int32(unix.EAGAIN)
		case 5, 6, 7, 8, 9:
			res = int32(s.Len)
		}
		switch {
		case res > 0:
			moved[i] += uint32(res)
		case res == -int32(unix.EAGAIN) && retries[i] < 4:
			retries[i]++
		default:
			failed[i] = unix.Errno(-res)
			for j := i; secs[j].Link && j+1 < len(secs); j++ {
				failed[j+1] = uring.ErrCancelled
			}
			if first == nil {
				first = failed[i]
			}
		}
		done = f.Complete(q, &uring.CQE{UserData: s.UserData, Res: res})
	}
	_, _ = q.Submit()
	if len(q.submitted) != 0 || f.InFlight() != 0 {
		t.Fatal("done, and something is in flight")
	}
	if err := f.Err(); !errors.Is(err, first) {
		t.Fatalf("error %v, the first was %v", err, first)
	}
	for i := range secs {
		if failed[i] == nil && moved[i] != secs[i].Len || secs[i].Moved() != int(moved[i]) || !errors.Is(secs[i].Err(), failed[i]) {
			t.Fatalf("secondary %d: %d of %d bytes, %v; says %d, %v; want %v", i, moved[i], secs[i].Len, failed[i],
				secs[i].Moved(), secs[i].Err(), failed[i])
		}
	}
}

func TestUserData(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.Uint8().Draw(t, "kind")
		g, i, tag := rapid.Uint16().Draw(t, "gen"), rapid.Uint16().Draw(t, "index"), rapid.Uint16().Draw(t, "tag")
		u := uring.Pack(uring.Kind(k), g, i, tag)
		if u.Kind() != uring.Kind(k) || u.Generation() != g || u.Index() != i || u.Tag() != tag {
			t.Fatalf("%#x", uint64(u))
		}
	})
	if u := uring.Pack(0x12, 0x5678, 0x9abc, 0xdef0); u != 0x120056789abcdef0 {
		t.Fatalf("layout: %#x", uint64(u))
	}
}
