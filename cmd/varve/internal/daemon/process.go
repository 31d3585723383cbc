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

// When memory is short, the kernel writes dirty pages to the daemon's devices. The daemon must not
// need memory for that which only those writes would free. Four things keep it out of that circle:
//
//   - Its allocations in the kernel never wait for I/O (PF_MEMALLOC_NOIO), and its own dirty pages are
//     throttled by the store's disk alone, not by the dirty pages that it is about to clean
//     (PF_LOCAL_THROTTLE). Both are PR_SET_IO_FLUSHER.
//   - Its memory is not swapped out, which might be to one of its own devices (mlockall).
//   - The out-of-memory killer spares it (oom_score_adj), as processes that wait for its devices would
//     wait forever.
//   - Go's heap has a limit (GOMEMLIMIT), since other processes cannot use locked memory.

// wantFiles is the limit of open files to ask for: a store has a file for each segment that is
// being read.
const wantFiles = 1 << 20

// ProcessOptions of a process that serves block devices.
type ProcessOptions struct {
	// MemoryLimit is a soft limit for the heap in bytes; 0: none, or GOMEMLIMIT of the environment.
	MemoryLimit int64
	// Swappable leaves the process's memory unlocked.
	Swappable bool
	// Unlocked is a directory; mappings of files in it are not kept locked. "": none.
	Unlocked string
}

// PrepareProcess prepares the process to serve block devices. What the machine refuses is logged
// and done without. The returned function ends what PrepareProcess has started.
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
		log.Warn("limit of open files was not raised", "limit", lim.Cur, "error", err)
	}
}

// beIOFlusher tells the kernel that allocations of this process must not wait for writes to its own
// devices (prctl(2)). The flag belongs to a thread and is inherited by the threads that it creates,
// including the ring's workers (kernel/fork.c, dup_task_struct, 7.3): set on all threads, every
// later one has it.
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

// oomScoreFile holds what is added to the process's badness: -1000 is never
// (proc_pid_oom_score_adj(5)).
const oomScoreFile = "/proc/self/oom_score_adj"

// escapeOOMKiller exempts the process from the out-of-memory killer, unless its parent has set a
// score.
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
