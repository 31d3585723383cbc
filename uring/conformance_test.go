//go:build linux

package uring_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"varve/uring"
)

// eachRing runs a test over every implementation of this build, with the flags
// of a data ring and without.
func eachRing(t *testing.T, opts uring.Options, test func(t *testing.T, r uring.Ring)) {
	t.Helper()
	for _, name := range uring.Implementations() {
		for _, data := range []bool{false, true} {
			sub := name
			if data {
				sub += "/deferred"
			}
			t.Run(sub, func(t *testing.T) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				o := opts
				o.Implementation = name
				o.SingleIssuer, o.DeferTaskrun, o.CoopTaskrun = data, data, data
				r, err := uring.New(o)
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := r.Close(); err != nil {
						t.Error(err)
					}
				}()
				test(t, r)
			})
		}
	}
}

// sqe takes an entry that the test expects to be there.
func sqe(t *testing.T, q uring.Queue) *uring.SQE {
	t.Helper()
	s := q.GetSQE()
	if s == nil {
		t.Fatal("no submission entry")
	}
	return s
}

// await submits and reaps exactly n completions.
func await(t *testing.T, q uring.Queue, n int, mode uring.WaitMode) []uring.CQE {
	t.Helper()
	got := make([]uring.CQE, 0, n)
	buf := make([]uring.CQE, n+1)
	for len(got) < n {
		if err := q.SubmitAndWait(1, mode); err != nil {
			t.Fatal(err)
		}
		k := q.Reap(buf)
		got = append(got, buf[:k]...)
	}
	if len(got) != n {
		t.Fatalf("%d completions, want %d: %v", len(got), n, got)
	}
	return got
}

func tempFile(t *testing.T, content []byte) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "data"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestNop(t *testing.T) {
	for _, mode := range []uring.WaitMode{uring.WaitBusy, uring.WaitIdle, uring.WaitHandoff} {
		eachRing(t, uring.Options{Entries: 8}, func(t *testing.T, r uring.Ring) {
			for i := range uint64(1000) {
				s := sqe(t, r)
				s.Nop()
				s.UserData = i
				c := await(t, r, 1, mode)[0]
				if c.UserData != i || c.Res != 0 {
					t.Fatalf("completion %+v of nop %d", c, i)
				}
			}
		})
	}
}

func TestReadWrite(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		f := tempFile(t, nil)
		out, in := bytes.Repeat([]byte("varve"), 1000), make([]byte, 5000)
		s := sqe(t, r)
		s.Write(int32(f.Fd()), out, 77)
		s.UserData = 1
		if c := await(t, r, 1, uring.WaitBusy)[0]; c.Res != 5000 || c.UserData != 1 {
			t.Fatalf("write: %+v", c)
		}
		sqe(t, r).Fsync(int32(f.Fd()), true)
		if c := await(t, r, 1, uring.WaitBusy)[0]; c.Res != 0 {
			t.Fatalf("fdatasync: %+v", c)
		}
		sqe(t, r).Read(int32(f.Fd()), in, 77)
		if c := await(t, r, 1, uring.WaitBusy)[0]; c.Res != 5000 {
			t.Fatalf("read: %+v", c)
		}
		if !bytes.Equal(in, out) {
			t.Fatal("read other bytes than were written")
		}
	})
}

func TestSparseFixedBuffers(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		f := tempFile(t, bytes.Repeat([]byte{0xab}, 8192))
		if err := r.RegisterBuffersSparse(4); err != nil {
			t.Fatal(err)
		}
		mem := make([]byte, 8192)
		sqe(t, r).ReadFixed(int32(f.Fd()), 2, uring.Address(mem), 4096, 0)
		if c := await(t, r, 1, uring.WaitBusy)[0]; c.Res >= 0 {
			t.Fatalf("read into an empty slot: %+v", c)
		}
		if err := r.UpdateBuffers(2, [][]byte{mem}); err != nil {
			t.Fatal(err)
		}
		sqe(t, r).ReadFixed(int32(f.Fd()), 2, uring.Address(mem)+512, 4096, 0)
		if c := await(t, r, 1, uring.WaitBusy)[0]; c.Res != 4096 {
			t.Fatalf("read: %+v", c)
		}
		want := append(make([]byte, 512), bytes.Repeat([]byte{0xab}, 4096)...)
		if !bytes.Equal(mem[:4608], want) || mem[4608] != 0 {
			t.Fatal("read to the wrong place")
		}
	})
}
