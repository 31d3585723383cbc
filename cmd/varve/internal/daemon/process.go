package daemon

import (
	"errors"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A process that serves a block device stands between the kernel and the pages that it wants to clean: when memory is
// short, the kernel writes dirty pages to the device, and must not need for that what only comes free when they are
// written. Four things keep the daemon out of that circle:
//
//   - its allocations in the kernel never wait for I/O (PF_MEMALLOC_NOIO), and what it dirties itself is held against
//     the limits of the store's disk alone, not against the dirty pages that it is about to clean
//     (PF_LOCAL_THROTTLE): both are PR_SET_IO_FLUSHER;
//   - its own memory is not swapped out, which might be to one of its own devices (mlockall);
//   - nobody kills it to get memory (oom_score_adj): what waits for its devices would wait for ever;
//   - Go's heap keeps to a limit (GOMEMLIMIT), since what is locked is gone for everybody else.

// wantFiles is the limit of open files to ask for: a store has a file for each segment that is being read.
const wantFiles = 1 << 20

// ProcessOptions of a process that serves block devices.
type ProcessOptions struct {
	// MemoryLimit is a soft limit for the heap in bytes; 0: none, or GOMEMLIMIT of the environment.
	MemoryLimit int64
	// Swappable leaves the process's memory to the kernel like any other's.
	Swappable bool
	// Unlocked is a directory whose files may be mapped and need not be in memory; "": there is none.
	Unlocked string
}

// PrepareProcess makes the process fit to serve block devices. What the machine refuses is logged and lived without.
// The function that it returns ends what it has started.
func PrepareProcess(log *slog.Logger, o ProcessOptions) (end func()) {
	raiseFileLimit(log)
	beIOFlusher(log)
	escapeOOMKiller(log)
	if o.MemoryLimit > 0 {
		debug.SetMemoryLimit(o.MemoryLimit)
	}
	if o.Swappable {
		return func() {}
	}
	return lockMemory(log, o.Unlocked)
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
// is a thread's, and inherited by every thread that it makes (kernel/fork.c, dup_task_struct, 7.3), the ring's workers
// too: set on all threads, every later one has it.
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

// oomScoreFile holds what is added to the process's badness: -1000 is never (proc_pid_oom_score_adj(5)).
const oomScoreFile = "/proc/self/oom_score_adj"

// escapeOOMKiller keeps the process from being killed for its memory, unless whoever started it has set a score.
func escapeOOMKiller(log *slog.Logger) {
	if b, err := os.ReadFile(oomScoreFile); err != nil || strings.TrimSpace(string(b)) != "0" {
		return
	}
	// O_WRONLY without O_TRUNC, as the file wants it.
	f, err := os.OpenFile(oomScoreFile, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("-1000")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		log.Info("may be killed when memory runs out: keeping the kernel from it needs CAP_SYS_RESOURCE", "error", err)
	}
}
