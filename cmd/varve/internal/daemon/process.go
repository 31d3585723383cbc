package daemon

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// wantFiles is the limit of open files to ask for: a store has a file for each segment that is being read.
const wantFiles = 1 << 20

// PrepareProcess makes the process fit to serve block devices. What the machine refuses is logged and lived without.
func PrepareProcess(log *slog.Logger, memoryLimit int64) {
	raiseFileLimit(log)
	beIOFlusher(log)
	if memoryLimit > 0 {
		debug.SetMemoryLimit(memoryLimit)
	}
}

func raiseFileLimit(log *slog.Logger) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		log.Warn("limit of open files is unknown", "error", err)
		return
	}
	if lim.Cur >= wantFiles {
		return
	}
	more := unix.Rlimit{Cur: wantFiles, Max: max(wantFiles, lim.Max)}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &more) == nil {
		return
	}
	more = unix.Rlimit{Cur: lim.Max, Max: lim.Max} // without CAP_SYS_RESOURCE up to the hard limit
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &more); err != nil {
		log.Warn("limit of open files is as it was", "limit", lim.Cur, "error", err)
	}
}

// beIOFlusher tells the kernel that freeing memory must not wait for our own devices to write (prctl(2)). The flag
// is a thread's, and inherited: set on all threads, every later one has it.
func beIOFlusher(log *slog.Logger) {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0, 0)
	switch {
	case errno == 0:
	case errors.Is(errno, unix.EPERM):
		log.Info("not an I/O flusher: it needs CAP_SYS_RESOURCE; under memory pressure writes to own devices may stall")
	case errors.Is(errno, unix.ENOTSUP):
		log.Warn("not an I/O flusher: varve was built with cgo, build it with CGO_ENABLED=0")
	default:
		log.Info("not an I/O flusher", "error", errno)
	}
}
