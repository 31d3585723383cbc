package objstore

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// atLowPriority calls f on a thread of its own whose nice value is nice above that of the process,
// and waits for it. With 0 it only calls f. The thread ends with f, as only a privileged process
// can raise a priority again; Go starts no thread from one that a goroutine has locked, so no other
// thread inherits the value.
func atLowPriority(nice int, f func()) {
	if nice == 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the main thread does not end; no other goroutine gets it now
			defer runtime.UnlockOSThread()
			atLowPriority(nice, f)
			return
		}
		lowerPriority(nice)
		f()
	}()
	<-done
}

// lowerPriority lowers the priority of the calling thread. If it can't, the work is done all the
// same.
func lowerPriority(nice int) {
	// getpriority returns 20 less the nice value (kernel/sys.c).
	now, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
	if err == nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), min(20-now+nice, 19))
	}
}
