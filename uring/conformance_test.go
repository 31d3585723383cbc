//go:build linux

package uring_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// eachRing runs a test on every implementation of this build, with and without the flags of a data
// ring.
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

// sqe returns an entry of a queue that must not be full.
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

// TestSQEZeroed fills every entry of the queue with garbage, which the kernel rejects, and checks
// that every entry is zero on its next use, through GetSQE and through each method that prepares an
// operation.
func TestSQEZeroed(t *testing.T) {
	prep := map[string]func(s *uring.SQE){
		"none":       func(*uring.SQE) {},
		"Nop":        func(s *uring.SQE) { s.Nop() },
		"ReadFixed":  func(s *uring.SQE) { s.ReadFixed(1, 2, 3, 4, 5) },
		"WriteFixed": func(s *uring.SQE) { s.WriteFixed(1, 2, 3, 4, 5) },
		"Read":       func(s *uring.SQE) { s.Read(1, nil, 5) },
		"Write":      func(s *uring.SQE) { s.Write(1, nil, 5) },
		"UringCmd":   func(s *uring.SQE) { s.UringCmd(1, 5) },
		"Fsync":      func(s *uring.SQE) { s.Fsync(1, false) },
	}
	spoil := func(s *uring.SQE, cmd []byte) {
		*s = uring.SQE{Opcode: 255, OpFlags: ^uint32(0), UserData: 1, Personality: 9, FileIndex: ^uint32(0), IOPrio: 3}
		for i := range cmd {
			cmd[i] = 0xee
		}
	}
	for _, big := range []bool{false, true} {
		eachRing(t, uring.Options{Entries: 8, SQE128: big}, func(t *testing.T, r uring.Ring) {
			command := func(s *uring.SQE) []byte {
				if big {
					return s.BigCmd()
				}
				return s.Cmd()
			}
			for name, p := range prep {
				for range 8 {
					s := sqe(t, r)
					spoil(s, command(s))
				}
				for _, c := range await(t, r, 8, uring.WaitBusy) {
					if c.Res != -int32(unix.EINVAL) {
						t.Fatalf("garbage was accepted: %+v", c)
					}
				}
				for range 8 {
					s := sqe(t, r)
					fresh := *s
					spoil(s, s.Cmd())
					if name == "none" {
						*s = fresh
					}
					p(s)
					if s.OpFlags != 0 || s.UserData != 0 || s.Personality != 0 || s.FileIndex != 0 || s.IOPrio != 0 {
						t.Fatalf("%s: stale field in %+v", name, *s)
					}
					if cmd := command(s); !bytes.Equal(cmd, make([]byte, len(cmd))) {
						t.Fatalf("%s: stale command bytes % x", name, cmd)
					}
					s.Nop()
				}
				await(t, r, 8, uring.WaitBusy)
			}
		})
	}
}

func TestSQE128(t *testing.T) {
	eachRing(t, uring.Options{Entries: 64, SQE128: true}, func(t *testing.T, r uring.Ring) {
		f := tempFile(t, bytes.Repeat([]byte{7}, 4096))
		buf := make([]byte, 64)
		for range 3 { // go around the queue more than once
			for i := range uint64(48) {
				s := sqe(t, r)
				s.Read(int32(f.Fd()), buf[i:i+1], i)
				s.UserData = i
			}
			seen := make(map[uint64]bool)
			for _, c := range await(t, r, 48, uring.WaitBusy) {
				if c.Res != 1 || seen[c.UserData] {
					t.Fatalf("completion %+v", c)
				}
				seen[c.UserData] = true
			}
		}
	})
}

// TestFullQueue takes every entry and checks that submitting makes room.
func TestFullQueue(t *testing.T) {
	eachRing(t, uring.Options{Entries: 8}, func(t *testing.T, r uring.Ring) {
		n := int(r.Info().SQEntries)
		for range n {
			sqe(t, r).Nop()
		}
		if r.GetSQE() != nil {
			t.Fatalf("more than %d entries", n)
		}
		if got, err := r.Submit(); got != n || err != nil {
			t.Fatalf("submit: %d, %v", got, err)
		}
		sqe(t, r).Nop()
		await(t, r, n+1, uring.WaitBusy)
	})
}

// TestOverflow causes far more completions than the queue holds and reaps them all.
func TestOverflow(t *testing.T) {
	eachRing(t, uring.Options{Entries: 8, CQEntries: 8}, func(t *testing.T, r uring.Ring) {
		if n := r.Info().CQEntries; n != 8 {
			t.Fatalf("%d completion entries", n)
		}
		const total = 500
		for i := range uint64(total) {
			s, err := uring.NextSQE(r)
			if err != nil {
				t.Fatal(err)
			}
			s.Nop()
			s.UserData = i
		}
		if _, err := r.Submit(); err != nil {
			t.Fatal(err)
		}
		seen := make([]bool, total)
		buf := make([]uring.CQE, 5)
		for left := total; left > 0; {
			n := r.Reap(buf)
			if n == 0 {
				t.Fatalf("%d completions missing", left)
			}
			for _, c := range buf[:n] {
				if seen[c.UserData] {
					t.Fatalf("completion %d was reaped twice", c.UserData)
				}
				seen[c.UserData] = true
			}
			left -= n
		}
		if n := r.Reap(buf); n != 0 {
			t.Fatalf("%d completions too many", n)
		}
	})
}

// TestReapSubmitsNothing: Reap does not submit an entry that the caller is still filling when it
// fetches overflowed completions.
func TestReapSubmitsNothing(t *testing.T) {
	eachRing(t, uring.Options{Entries: 8, CQEntries: 8}, func(t *testing.T, r uring.Ring) {
		for range 40 {
			s, err := uring.NextSQE(r)
			if err != nil {
				t.Fatal(err)
			}
			s.Nop()
		}
		if _, err := r.Submit(); err != nil {
			t.Fatal(err)
		}
		held := sqe(t, r)
		buf := make([]uring.CQE, 8)
		for left := 40; left > 0; {
			n := r.Reap(buf)
			if n == 0 {
				t.Fatalf("%d completions missing", left)
			}
			left -= n
		}
		held.Nop()
		held.UserData = 99
		if c := await(t, r, 1, uring.WaitBusy)[0]; c.UserData != 99 {
			t.Fatalf("the entry was submitted unfinished: %+v", c)
		}
	})
}

// TestWaitForTooMany: a wait for more than the queue holds ends when it is full.
func TestWaitForTooMany(t *testing.T) {
	for name, wait := range map[string]func(r uring.Ring) error{
		"untimed": func(r uring.Ring) error { return r.SubmitAndWait(1000, uring.WaitBusy) },
		"timed":   func(r uring.Ring) error { return r.SubmitAndWaitTimeout(1000, 5*time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			eachRing(t, uring.Options{Entries: 8, CQEntries: 8}, func(t *testing.T, r uring.Ring) {
				for range 16 {
					s, err := uring.NextSQE(r)
					if err != nil {
						t.Fatal(err)
					}
					s.Nop()
				}
				if err := wait(r); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestClosed(t *testing.T) {
	eachRing(t, uring.Options{Entries: 256, SQE128: true}, func(t *testing.T, r uring.Ring) {
		for range 2 {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if r.GetSQE() != nil || r.Reap(make([]uring.CQE, 1)) != 0 {
			t.Fatal("a closed ring still returns entries")
		}
		if _, err := r.Submit(); !errors.Is(err, uring.ErrClosed) {
			t.Fatalf("submit: %v", err)
		}
		if err := r.SubmitAndWait(1, uring.WaitBusy); !errors.Is(err, uring.ErrClosed) {
			t.Fatalf("wait: %v", err)
		}
		if err := r.SubmitAndWaitTimeout(1, time.Second); !errors.Is(err, uring.ErrClosed) {
			t.Fatalf("timed wait: %v", err)
		}
		if err := r.RegisterBuffersSparse(1); !errors.Is(err, unix.EBADF) {
			t.Fatalf("register: %v", err)
		}
	})
}

// TestCloseUnmaps sets up many rings and checks that no mapping is left.
func TestCloseUnmaps(t *testing.T) {
	maps := func() int {
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("io_uring"))
	}
	before := maps()
	for range 8 {
		eachRing(t, uring.Options{Entries: 512, SQE128: true}, func(t *testing.T, r uring.Ring) { sqe(t, r).Nop() })
	}
	if after := maps(); after > before {
		t.Fatalf("%d ring mappings before, %d after", before, after)
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]uring.Options{
		"entries":        {Entries: uring.MaxEntries + 1},
		"cq entries":     {CQEntries: uring.MaxCQEntries + 1},
		"cq below sq":    {Entries: 64, CQEntries: 32},
		"defer alone":    {DeferTaskrun: true},
		"implementation": {Implementation: "liburing"},
	} {
		if r, err := uring.New(o); err == nil {
			t.Errorf("%s: accepted", name)
			_ = r.Close()
		}
	}
}
