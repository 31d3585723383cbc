//go:build linux

package uring_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"varve/uring"
)

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
		if err := r.UpdateBuffers(4, [][]byte{mem}); err == nil {
			t.Fatal("a slot outside the table was filled")
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

func TestRegisteredBuffers(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		f := tempFile(t, nil)
		bufs := [][]byte{bytes.Repeat([]byte{1}, 4096), bytes.Repeat([]byte{2}, 4096)}
		if err := r.RegisterBuffers(bufs); err != nil {
			t.Fatal(err)
		}
		for i := range uint16(2) {
			sqe(t, r).WriteFixed(int32(f.Fd()), i, uring.Address(bufs[i]), 4096, uint64(i)*4096)
		}
		for _, c := range await(t, r, 2, uring.WaitBusy) {
			if c.Res != 4096 {
				t.Fatalf("write: %+v", c)
			}
		}
		got := make([]byte, 8192)
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, slices.Concat(bufs...)) {
			t.Fatalf("file differs from the buffers (%v)", err)
		}
		if err := r.UpdateBuffers(1, [][]byte{nil}); err != nil {
			t.Fatal(err)
		}
		sqe(t, r).WriteFixed(int32(f.Fd()), 1, uring.Address(bufs[1]), 4096, 0)
		if c := await(t, r, 1, uring.WaitBusy)[0]; c.Res >= 0 {
			t.Fatalf("write from an emptied slot: %+v", c)
		}
	})
}

// TestFixedFiles would fail on 64-bit file numbers: slot 1 would be the upper half of slot 0.
func TestFixedFiles(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		a, b := tempFile(t, []byte("aaaa")), tempFile(t, []byte("bbbb"))
		if err := r.RegisterFiles([]int32{int32(a.Fd()), int32(b.Fd()), -1}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4)
		read := func(slot int32) (int32, string) {
			clear(buf)
			s := sqe(t, r)
			s.Read(slot, buf, 0)
			s.Flags = uring.IOSQE_FIXED_FILE
			return await(t, r, 1, uring.WaitBusy)[0].Res, string(buf)
		}
		for slot, want := range []string{"aaaa", "bbbb"} {
			if n, got := read(int32(slot)); n != 4 || got != want {
				t.Fatalf("slot %d: %d %q, want %q", slot, n, got, want)
			}
		}
		if n, _ := read(2); n != -int32(unix.EBADF) {
			t.Fatalf("empty slot: %d", n)
		}
		if err := r.UpdateFiles(2, []int32{int32(a.Fd())}); err != nil {
			t.Fatal(err)
		}
		if n, got := read(2); n != 4 || got != "aaaa" {
			t.Fatalf("updated slot: %d %q", n, got)
		}
	})
}

func TestRegisterErrors(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		for name, err := range map[string]error{
			"no buffers":       r.RegisterBuffers(nil),
			"no files":         r.RegisterFiles(nil),
			"update no table":  r.UpdateBuffers(0, [][]byte{make([]byte, 8)}),
			"update no files":  r.UpdateFiles(0, nil),
			"update no fd tab": r.UpdateFiles(0, []int32{1}),
			"bad descriptor":   r.RegisterFiles([]int32{1 << 20}),
		} {
			var op *uring.OpError
			var errno unix.Errno
			if !errors.As(err, &op) || !errors.As(err, &errno) {
				t.Errorf("%s: %v is no OpError around an errno", name, err)
			}
		}
	})
}
