//go:build linux

package uring_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// A send of registered memory has two completions; its bytes are in use until the second.
func TestFusedNotification(t *testing.T) {
	f, q := newFused(t, 5, uring.FusedOptions{}), &simQueue{size: 4}
	secs := []uring.Secondary{{Op: uring.SecondarySend, FD: 3, Len: 1000}}
	if err := f.Start(q, uring.Primary{Dir: uring.DirWrite, Len: 1000}, secs); err != nil {
		t.Fatal(err)
	}
	for i, n := range []int32{400, 600} {
		_, _ = q.Submit()
		s := q.take(0)
		if s.Opcode != uring.IORING_OP_SEND_ZC || s.IOPrio != uring.IORING_RECVSEND_FIXED_BUF || s.Off != 0 {
			t.Fatalf("entry %+v", s)
		}
		if f.Complete(q, &uring.CQE{UserData: s.UserData, Res: n, Flags: uring.IORING_CQE_F_MORE}) || f.InFlight() != 1 {
			t.Fatalf("send %d is done, and the kernel has its bytes", i)
		}
		done := f.Complete(q, &uring.CQE{UserData: s.UserData, Flags: 1 << 3}) // IORING_CQE_F_NOTIF
		if done != (i == 1) {
			t.Fatalf("send %d: done = %v", i, done)
		}
	}
	if err := f.Err(); err != nil || secs[0].Moved() != 1000 {
		t.Fatalf("moved %d, %v", secs[0].Moved(), err)
	}
	// A send that fails has no second completion.
	if err := f.Start(q, uring.Primary{Dir: uring.DirWrite, Len: 1000}, secs); err != nil {
		t.Fatal(err)
	}
	_, _ = q.Submit()
	if !f.Complete(q, &uring.CQE{UserData: q.take(0).UserData, Res: -int32(unix.EPIPE)}) || !errors.Is(secs[0].Err(), unix.EPIPE) {
		t.Fatalf("a failed send: %d in flight, %v", f.InFlight(), secs[0].Err())
	}
}

// The bytes of a request are sent once the last secondary has moved its own, although the kernel still
// holds those of a send without a copy; a short send, one that failed, and one that waits for a link
// are not.
func TestFusedSent(t *testing.T) {
	const more, notification = uring.IORING_CQE_F_MORE, 1 << 3 // IORING_CQE_F_NOTIF
	for name, k := range map[string]struct {
		first int32   // the result of the header's send, which has 28 bytes
		bytes []int32 // of the sends of the 1000 bytes behind it
		sent  bool
	}{
		"whole":                   {28, []int32{1000}, true},
		"header under way":        {0, nil, false},
		"short":                   {28, []int32{400}, false},
		"in two":                  {28, []int32{400, 600}, true},
		"header failed":           {-int32(unix.EPIPE), nil, false},
		"bytes failed":            {28, []int32{-int32(unix.EPIPE)}, false},
		"the rest has failed too": {28, []int32{400, -int32(unix.EPIPE)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, q := newFused(t, 5, uring.FusedOptions{}), &simQueue{size: 4}
			secs := []uring.Secondary{
				{Op: uring.SecondarySend, FD: 3, Mem: make([]byte, 28), Link: true},
				{Op: uring.SecondarySend, FD: 3, Len: 1000},
			}
			if err := f.Start(q, uring.Primary{Dir: uring.DirWrite, Len: 1000}, secs); err != nil {
				t.Fatal(err)
			}
			complete := func(res int32, flags uint32) {
				_, _ = q.Submit()
				f.Complete(q, &uring.CQE{UserData: q.take(0).UserData, Res: res, Flags: flags})
			}
			if k.first != 0 {
				complete(k.first, 0)
			}
			for i, n := range k.bytes {
				if f.Sent() {
					t.Fatalf("sent before send %d", i)
				}
				_, _ = q.Submit()
				data := q.take(0).UserData
				f.Complete(q, &uring.CQE{UserData: data, Res: n, Flags: more})
				if last := i == len(k.bytes)-1; last && f.Sent() != k.sent {
					t.Errorf("Sent is %v", f.Sent())
				}
				f.Complete(q, &uring.CQE{UserData: data, Flags: notification})
			}
			if len(k.bytes) == 0 && f.Sent() != k.sent || f.InFlight() == 0 && f.Sent() {
				t.Errorf("Sent is %v, %d in flight", f.Sent(), f.InFlight())
			}
		})
	}
}

// tcpPair is a connection over the loopback device: sockets that SEND_ZC takes.
func tcpPair(t *testing.T) (ours, theirs *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func fdOf(t *testing.T, c *net.TCPConn) int32 {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int32(f.Fd())
}

// A header from own memory, and behind it registered bytes, go out over a connection; the answer
// comes into own memory.
func TestSecondarySend(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		mem, p := buffer(t, r, 64<<10)
		p.Dir = uring.DirWrite
		for i := range mem {
			mem[i] = byte(i * 7)
		}
		ours, theirs := tcpPair(t)
		fd := fdOf(t, ours)
		got := make(chan []byte, 1)
		go func() {
			b := make([]byte, 16+len(mem))
			if _, err := io.ReadFull(theirs, b); err != nil {
				t.Error(err)
			}
			if _, err := theirs.Write([]byte("received")); err != nil {
				t.Error(err)
			}
			got <- b
		}()
		header, answer := []byte("sixteen bytes..."), make([]byte, 8)
		secs := []uring.Secondary{
			{Op: uring.SecondarySend, FD: fd, Mem: header, Link: true},
			{Op: uring.SecondarySend, FD: fd, Len: uint32(len(mem)), Link: true},
			{Op: uring.SecondaryRecv, FD: fd, Mem: answer},
		}
		if err := run(t, r, newFused(t, 1, uring.FusedOptions{}), p, secs); err != nil {
			t.Fatal(err)
		}
		if b := <-got; !bytes.Equal(b, append(header, mem...)) || string(answer) != "received" {
			t.Errorf("header %q, %d other bytes equal: %v; answer %q", b[:16], len(mem), bytes.Equal(b[16:], mem), answer)
		}
		_ = theirs.Close()
		eof := []uring.Secondary{{Op: uring.SecondaryRecv, FD: fd, Mem: answer}}
		if err := run(t, r, newFused(t, 1, uring.FusedOptions{}), p, eof); !errors.Is(err, uring.ErrUnexpectedEOF) {
			t.Errorf("a closed connection: %v", err)
		}
	})
}

// Space is allocated, written and made durable, in that order; a failure cancels what is linked
// behind it, and nothing else.
func TestSecondaryLinks(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		mem, p := buffer(t, r, 8192)
		p.Dir = uring.DirWrite
		copy(mem, "something to write")
		path := filepath.Join(t.TempDir(), "file")
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		fd := int32(file.Fd())
		secs := []uring.Secondary{
			{Op: uring.SecondaryFallocate, FD: fd, FileOff: 0, Len: 1 << 20, Link: true},
			{Op: uring.SecondaryWrite, FD: fd, FileOff: 4096, Len: 8192, Link: true},
			{Op: uring.SecondaryFsync, FD: fd, Flags: uring.IORING_FSYNC_DATASYNC},
			{Op: uring.SecondaryWrite, FD: -1, Len: 512, Link: true},
			{Op: uring.SecondaryFsync, FD: fd, Link: true},
			{Op: uring.SecondaryFsync, FD: fd},
		}
		f := newFused(t, 1, uring.FusedOptions{})
		if err := run(t, r, f, p, secs); !errors.Is(err, unix.EBADF) {
			t.Errorf("fused: %v, want EBADF", err)
		}
		for i, want := range []error{nil, nil, nil, unix.EBADF, uring.ErrCancelled, unix.ECANCELED} {
			if err := secs[i].Err(); !errors.Is(err, want) {
				t.Errorf("secondary %d: %v, want %v", i, err, want)
			}
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) != 1<<20 || !bytes.Equal(b[4096:12288], mem) {
			t.Errorf("the file has %d bytes, or others than written: %v", len(b), err)
		}
	})
}
