//go:build linux

package uring

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestIdleHandsSlotOff: an idle wait must use Syscall6 after a signal, a busy wait must not, and a
// handoff wait uses Syscall6 from the start.
func TestIdleHandsSlotOff(t *testing.T) {
	for mode, blocking := range map[WaitMode]bool{WaitBusy: false, WaitIdle: true, WaitHandoff: true} {
		runtime.LockOSThread()
		r := open(t, Options{SingleIssuer: true, DeferTaskrun: true})
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		r.GetSQE().PollAdd(int32(fd), unix.POLLIN)
		sent := make(chan error)
		tid := unix.Gettid()
		go func() {
			var err error
			for range 10 { // on a busy machine the wait may begin late
				time.Sleep(10 * time.Millisecond)
				err = errors.Join(err, unix.Tgkill(unix.Getpid(), tid, unix.SIGURG))
			}
			if _, werr := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err == nil {
				err = werr
			}
			sent <- err
		}()
		if err := r.SubmitAndWait(1, mode); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if (r.blocking > 0) != blocking {
			t.Errorf("mode %d: %d blocking enters, %d interruptions", mode, r.blocking, r.interrupted)
		}
		if r.interrupted == 0 {
			t.Errorf("mode %d: the signal did not interrupt the wait", mode)
		}
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	}
}

// TestNoPreemption: without the runtime's signals, a wait that keeps the slot would block garbage
// collection forever.
func TestNoPreemption(t *testing.T) {
	t.Setenv("GODEBUG", "asyncpreemptoff=1")
	r := open(t, Options{})
	defer func() { _ = r.Close() }()
	r.GetSQE().Nop()
	if err := r.SubmitAndWait(1, WaitBusy); err != nil || r.blocking != 1 {
		t.Fatalf("%v, %d blocking enters", err, r.blocking)
	}
}

// TestOneSlot: with a single scheduler slot, a waiting thread in any mode leaves room for the
// goroutine that will wake it.
func TestOneSlot(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, mode := range []WaitMode{WaitBusy, WaitIdle, WaitHandoff} {
		r := open(t, Options{})
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		r.GetSQE().PollAdd(int32(fd), unix.POLLIN)
		go func() { _, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }()
		if err := r.SubmitAndWaitTimeout(0, time.Second); err != nil {
			t.Fatal(err)
		}
		if err := r.SubmitAndWait(1, mode); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLostIsReported: the next call returns the error of an enter inside Reap, once.
func TestLostIsReported(t *testing.T) {
	r := open(t, Options{})
	for name, call := range map[string]func() error{
		"Submit":               func() error { _, err := r.Submit(); return err },
		"SubmitAndWait":        func() error { return r.SubmitAndWait(0, WaitBusy) },
		"SubmitAndWaitTimeout": func() error { return r.SubmitAndWaitTimeout(0, 0) },
	} {
		r.lost = opError(enterOp, unix.EBADR)
		if err := call(); err == nil {
			t.Errorf("%s: the loss was not reported", name)
		}
		if err := call(); err != nil {
			t.Errorf("%s: reported again: %v", name, err)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func open(t *testing.T, o Options) *mapped {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r.(*mapped)
}
