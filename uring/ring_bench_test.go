//go:build linux

package uring_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// benchRing runs a benchmark on every implementation of the build, on a ring like a device queue's.
func benchRing(b *testing.B, bench func(b *testing.B, r uring.Ring)) {
	for _, name := range uring.Implementations() {
		b.Run("ring="+name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			r, err := uring.New(uring.Options{
				Entries: 128, SingleIssuer: true, DeferTaskrun: true, CoopTaskrun: true, Implementation: name,
			})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = r.Close() }()
			b.ReportAllocs()
			bench(b, r)
		})
	}
}

var benchCQEs [128]uring.CQE

// BenchmarkRingNop measures the cost of entries alone, in batches of 1 and 32, by wait mode.
func BenchmarkRingNop(b *testing.B) {
	for _, depth := range []int{1, 32} {
		for i, mode := range []uring.WaitMode{uring.WaitBusy, uring.WaitHandoff} {
			b.Run(fmt.Sprintf("depth=%d/wait=%s", depth, []string{"raw", "syscall"}[i]), func(b *testing.B) {
				benchRing(b, func(b *testing.B, r uring.Ring) {
					for i := 0; i < b.N; i += depth {
						for range depth {
							r.GetSQE().Nop()
						}
						if err := r.SubmitAndWait(uint32(depth), mode); err != nil {
							b.Fatal(err)
						}
						if n := r.Reap(benchCQEs[:]); n != depth {
							b.Fatalf("%d completions", n)
						}
					}
				})
			})
		}
	}
}

// BenchmarkRingFused measures a request's data transfer: one Fused with its secondaries, from Start
// to completion. On /dev/zero and /dev/null nearly all of the time is the ring's; a tmpfs file adds
// the kernel's worker threads, which do the I/O.
func BenchmarkRingFused(b *testing.B) {
	for _, c := range []struct {
		secondaries int
		size        uint32
	}{{1, 4096}, {8, 4096}, {1, 512 << 10}, {32, 16384}} {
		for _, onTmpfs := range []bool{false, true} {
			for _, dir := range []uring.Direction{uring.DirRead, uring.DirWrite} {
				file := map[bool]string{false: "null", true: "tmpfs"}[onTmpfs]
				b.Run(fmt.Sprintf("secondaries=%d/size=%d/file=%s/dir=%v", c.secondaries, c.size, file, dir), func(b *testing.B) {
					f := benchFile(b, onTmpfs, dir, int64(c.secondaries)*int64(c.size))
					benchRing(b, func(b *testing.B, r uring.Ring) { benchFused(b, r, f, dir, c.secondaries, c.size) })
				})
			}
		}
	}
}

func benchFused(b *testing.B, r uring.Ring, file *os.File, dir uring.Direction, n int, size uint32) {
	total := uint32(n) * size
	_, p := buffer(b, r, int(total))
	p.Dir = dir
	f := newFused(b, 0, uring.FusedOptions{})
	secs := make([]uring.Secondary, n)
	for i := range secs {
		off := uint32(i) * size
		secs[i] = uring.Secondary{Op: uring.SecondaryOp(dir), FD: int32(file.Fd()), FileOff: uint64(off), BufOff: off, Len: size}
	}
	b.SetBytes(int64(total))
	b.ResetTimer()
	for range b.N {
		if err := f.Start(r, p, secs); err != nil {
			b.Fatal(err)
		}
		for done := false; !done; {
			if err := r.SubmitAndWait(1, uring.WaitBusy); err != nil {
				b.Fatal(err)
			}
			for _, c := range benchCQEs[:r.Reap(benchCQEs[:])] {
				done = f.Complete(r, &c)
			}
		}
		if err := f.Err(); err != nil {
			b.Fatal(err)
		}
	}
}

// benchFile opens a file of the given size on tmpfs, or /dev/zero or /dev/null.
func benchFile(b *testing.B, onTmpfs bool, dir uring.Direction, size int64) *os.File {
	b.Helper()
	if onTmpfs {
		fd, err := unix.MemfdCreate("varve-bench", unix.MFD_CLOEXEC)
		if err != nil {
			b.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "memfd")
		b.Cleanup(func() { _ = f.Close() })
		if err := unix.Fallocate(fd, 0, 0, size); err != nil {
			b.Fatal(err)
		}
		return f
	}
	path := "/dev/zero"
	if dir == uring.DirWrite {
		path = "/dev/null"
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	return f
}
