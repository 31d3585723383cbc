//go:build linux

package uring_test

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// run runs one fused request to completion, and counts how often it is reported complete.
func run(t testing.TB, r uring.Ring, f *uring.Fused, p uring.Primary, secs []uring.Secondary) error {
	t.Helper()
	if err := f.Start(r, p, secs); err != nil {
		t.Fatal(err)
	}
	return finish(t, r, f)
}

// reaped is shared by the tests, which do not run in parallel, so that tests that count allocations
// do not count it.
var reaped [8]uring.CQE

func finish(t testing.TB, r uring.Ring, f *uring.Fused) error {
	t.Helper()
	done := 0
	for f.InFlight() > 0 {
		if err := r.SubmitAndWait(1, uring.WaitBusy); err != nil {
			t.Fatal(err)
		}
		for _, c := range reaped[:r.Reap(reaped[:])] {
			if f.Complete(r, &c) {
				done++
			}
		}
	}
	if done != 1 || f.Stale() != 0 {
		t.Fatalf("done %d times, %d stale completions", done, f.Stale())
	}
	return f.Err()
}

// buffer registers size bytes in slot 1 of a sparse table, as a primary.
func buffer(t testing.TB, r uring.Ring, size int) ([]byte, uring.Primary) {
	t.Helper()
	if err := r.RegisterBuffersSparse(2); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	if err := r.UpdateBuffers(1, [][]byte{mem}); err != nil {
		t.Fatal(err)
	}
	return mem, uring.Primary{BufIndex: 1, Base: uring.Address(mem), Len: uint32(size)}
}

// TestFusedFiles gathers a buffer from 200 ranges of two files and scatters it again, through a
// queue of 8 entries and 8 completions.
func TestFusedFiles(t *testing.T) {
	const n, size = 200, 200 * 512
	for _, plain := range []bool{false, true} {
		eachRing(t, uring.Options{Entries: 8, CQEntries: 8}, func(t *testing.T, r uring.Ring) {
			src := make([]byte, size)
			for i := range src {
				src[i] = byte(i / 512 * 7)
			}
			files := []*os.File{tempFile(t, src), tempFile(t, src)}
			mem, p := buffer(t, r, size)
			p.Plain = plain
			f := newFused(t, 3, uring.FusedOptions{})
			secs := make([]uring.Secondary, n)
			for i := range secs { // back to front
				secs[i] = uring.Secondary{
					FD: int32(files[i%2].Fd()), Len: 512,
					FileOff: uint64(i) * 512, BufOff: uint32(n-1-i) * 512,
				}
			}
			if err := run(t, r, f, p, secs); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if !bytes.Equal(mem[(n-1-i)*512:(n-i)*512], src[i*512:(i+1)*512]) {
					t.Fatalf("secondary %d was read to a wrong offset", i)
				}
			}

			p.Dir = uring.DirWrite
			for i := range secs {
				secs[i].Op, secs[i].BufOff = uring.SecondaryWrite, uint32(i)*512
			}
			if err := run(t, r, f, p, secs); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				got := make([]byte, 512)
				if _, err := files[i%2].ReadAt(got, int64(i)*512); err != nil || !bytes.Equal(got, mem[i*512:(i+1)*512]) {
					t.Fatalf("secondary %d was not written (%v)", i, err)
				}
			}
		})
	}
}

// TestFusedShort reads from a pipe, which returns short reads.
func TestFusedShort(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		mem, p := buffer(t, r, 4096)
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close() }()
		f := newFused(t, 0, uring.FusedOptions{})
		if err := f.Start(r, p, []uring.Secondary{{FD: int32(in.Fd()), BufOff: 100, Len: 300}}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if _, err := out.Write(bytes.Repeat([]byte{byte(i + 1)}, 100)); err != nil {
				t.Fatal(err)
			}
			c := await(t, r, 1, uring.WaitBusy)[0]
			if c.Res != 100 || f.Complete(r, &c) != (i == 2) {
				t.Fatalf("part %d: %+v", i, c)
			}
		}
		want := bytes.Join([][]byte{
			make([]byte, 100), bytes.Repeat([]byte{1}, 100),
			bytes.Repeat([]byte{2}, 100), bytes.Repeat([]byte{3}, 100), make([]byte, 100),
		}, nil)
		if err := f.Err(); err != nil || !bytes.Equal(mem[:500], want) {
			t.Fatalf("%v; the parts are not one after the other", err)
		}
		if _, err := out.Write(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		err = run(t, r, f, p, []uring.Secondary{{FD: int32(in.Fd()), Len: 300}})
		if !errors.Is(err, uring.ErrUnexpectedEOF) {
			t.Fatalf("closed pipe: %v", err)
		}
	})
}

// TestFusedErrors mixes good secondaries with bad ones: all finish, the error is kept, the next use
// is clean.
func TestFusedErrors(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		file := tempFile(t, bytes.Repeat([]byte{5}, 6000))
		full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = full.Close() }()
		mem, p := buffer(t, r, 8192)
		f := newFused(t, 0, uring.FusedOptions{})
		fd := int32(file.Fd())
		good := uring.Secondary{FD: fd, Len: 4096}

		err = run(t, r, f, p, []uring.Secondary{good, {FD: 1 << 20, BufOff: 4096, Len: 512}, good})
		if !errors.Is(err, unix.EBADF) || mem[4095] != 5 {
			t.Fatalf("bad file: %v", err)
		}
		err = run(t, r, f, p, []uring.Secondary{{FD: fd, FileOff: 4096, Len: 4096}})
		if !errors.Is(err, uring.ErrUnexpectedEOF) {
			t.Fatalf("across the file's end: %v", err)
		}
		if err = run(t, r, f, p, []uring.Secondary{good}); err != nil {
			t.Fatalf("after errors: %v", err)
		}
		p.Dir, good.Op = uring.DirWrite, uring.SecondaryWrite
		err = run(t, r, f, p, []uring.Secondary{good, {Op: uring.SecondaryWrite, FD: int32(full.Fd()), Len: 512}})
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("full device: %v", err)
		}
		if err = r.UpdateBuffers(1, [][]byte{nil}); err != nil {
			t.Fatal(err)
		}
		if err = run(t, r, f, p, []uring.Secondary{good}); !errors.Is(err, unix.EFAULT) {
			t.Fatalf("empty buffer slot: %v", err)
		}
	})
}

// TestFusedFixedFile uses the ring's file table, with flags of the operation.
func TestFusedFixedFile(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		file := tempFile(t, nil)
		if err := r.RegisterFiles([]int32{-1, int32(file.Fd())}); err != nil {
			t.Fatal(err)
		}
		mem, p := buffer(t, r, 4096)
		copy(mem, "settled")
		p.Dir = uring.DirWrite
		f := newFused(t, 0, uring.FusedOptions{})
		sec := uring.Secondary{Op: uring.SecondaryWrite, FixedFile: true, FD: 1, Len: 4096, Flags: unix.RWF_DSYNC}
		if err := run(t, r, f, p, []uring.Secondary{sec}); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 7)
		if _, err := file.ReadAt(got, 0); err != nil || string(got) != "settled" {
			t.Fatalf("%q, %v", got, err)
		}
		sec.Flags = 1 << 31
		if err := run(t, r, f, p, []uring.Secondary{sec}); err == nil {
			t.Fatal("an unknown flag did not reach the kernel")
		}
	})
}

// TestFusedAllocations: a use of a Fused allocates nothing.
func TestFusedAllocations(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		file := tempFile(t, make([]byte, 8192))
		_, p := buffer(t, r, 8192)
		f := newFused(t, 0, uring.FusedOptions{})
		secs := []uring.Secondary{{FD: int32(file.Fd()), Len: 4096}, {FD: int32(file.Fd()), FileOff: 4096, BufOff: 4096, Len: 4096}}
		if n := testing.AllocsPerRun(500, func() { _ = run(t, r, f, p, secs) }); n != 0 {
			t.Fatalf("%v allocations per fused request", n)
		}
	})
}
