//go:build linux

package uring_test

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// wakeup returns an eventfd and queues a poll of it on r.
func wakeup(t *testing.T, r uring.Ring) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	sqe(t, r).PollAdd(int32(fd), unix.POLLIN)
	return fd
}

var modes = map[string]uring.WaitMode{"busy": uring.WaitBusy, "idle": uring.WaitIdle, "handoff": uring.WaitHandoff}

// TestSignals sends many signals to a waiting thread: only the completion may end the wait.
func TestSignals(t *testing.T) {
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
				fd := wakeup(t, r)
				tid := unix.Gettid()
				sent := make(chan error, 1)
				go func() {
					for range 300 {
						if err := unix.Tgkill(os.Getpid(), tid, unix.SIGURG); err != nil {
							sent <- err
							return
						}
						time.Sleep(100 * time.Microsecond)
					}
					_, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
					sent <- err
				}()
				c := await(t, r, 1, mode)[0]
				select {
				case err := <-sent:
					if err != nil || c.Res != unix.POLLIN {
						t.Fatalf("wake-up: %v, %+v", err, c)
					}
				case <-time.After(time.Minute):
					t.Fatal("the wait ended before its completion")
				}
			})
		})
	}
}

// TestGarbageCollectionDuringWait runs garbage collections, which stop the world, while a thread
// waits.
func TestGarbageCollectionDuringWait(t *testing.T) {
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
				fd := wakeup(t, r)
				done := make(chan error, 1)
				go func() {
					time.Sleep(20 * time.Millisecond) // the wait has begun
					for range 5 {
						runtime.GC()
					}
					_, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
					done <- err
				}()
				await(t, r, 1, mode)
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestTimeout(t *testing.T) {
	eachRing(t, uring.Options{}, func(t *testing.T, r uring.Ring) {
		fd := wakeup(t, r)
		begin := time.Now()
		if err := r.SubmitAndWaitTimeout(1, 30*time.Millisecond); !errors.Is(err, uring.ErrTimeout) {
			t.Fatalf("wait for nothing: %v", err)
		}
		if d := time.Since(begin); d < 25*time.Millisecond {
			t.Fatalf("the wait took %v", d)
		}
		sqe(t, r).Nop()
		if err := r.SubmitAndWaitTimeout(2, 10*time.Millisecond); !errors.Is(err, uring.ErrTimeout) {
			t.Fatalf("wait for two with one there: %v", err)
		}
		if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
		if err := r.SubmitAndWaitTimeout(2, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		if n := r.Reap(make([]uring.CQE, 4)); n != 2 {
			t.Fatalf("%d completions", n)
		}
	})
}
