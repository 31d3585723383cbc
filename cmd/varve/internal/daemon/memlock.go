package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/procmaps"
)

// unlockInterval is how long a mapping of the index may stay locked.
const unlockInterval = 30 * time.Second

// lockMemory keeps the process's memory from being swapped out or dropped: heap, stacks, copy
// buffers, rings and journal windows as far as they are used (MCL_ONFAULT, as a heap's address
// space is many times its size), and the whole program, because the next page of its text may be
// needed to write back a page under memory pressure.
//
// The kernel cannot reclaim locked memory, so two kinds are left out:
//   - Memory that Go frees. Its scavenger returns pages by madvise, which fails for locked memory; Go
//     then maps fresh pages in their place, with the same effect (runtime/mem_linux.go,
//     sysUnusedOS, Go 1.26).
//   - The index's tables. badger maps them whole, they grow with the store, and reading a page again
//     costs a read of the store's disk, never of a device. MCL_FUTURE locks them with everything
//     else; they are unlocked at intervals.
//
// Under a limit on locked memory MCL_FUTURE would make some later mmap fail, and Go would end the
// process. So memory is locked only without a limit.
func lockMemory(log *slog.Logger, unlocked string) (end func()) {
	if err := mayLock(); err != nil {
		log.Info("memory is not locked: under memory pressure I/O may wait for swap", "error", err)
		return func() {}
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		log.Info("memory is not locked: under memory pressure I/O may wait for swap", "error", err)
		return func() {}
	}
	if err := populateProgram(); err != nil {
		log.Info("parts of the program are locked only once they were used", "error", err)
	}
	if unlocked == "" {
		return func() {}
	}
	quit := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(unlockInterval)
		defer tick.Stop()
		for {
			if err := unlockFiles(unlocked); err != nil {
				log.Warn("the index's tables stay in memory", "error", err)
				return
			}
			select {
			case <-quit:
				return
			case <-tick.C:
			}
		}
	})
	return func() { close(quit); running.Wait() }
}

// mayLock removes the limit on locked memory, or returns why it cannot.
func mayLock() error {
	none := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &none) == nil {
		return nil
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
		return err
	}
	if lim.Max == unix.RLIM_INFINITY { // raising the soft limit needs no privilege
		return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &none)
	}
	return fmt.Errorf("RLIMIT_MEMLOCK is %d bytes; raising it needs CAP_SYS_RESOURCE, or LimitMEMLOCK=infinity of the service", lim.Max)
}

// populateProgram reads the program's text and constants into memory, where they stay.
func populateProgram() error {
	return procmaps.Program(func(m procmaps.Mapping) error {
		if !strings.HasPrefix(m.Perms, "r") {
			return nil
		}
		return onRange(unix.SYS_MADVISE, m, unix.MADV_POPULATE_READ)
	})
}

// unlockFiles unlocks the mappings of files below dir. A mapping that disappears meanwhile is no
// error.
func unlockFiles(dir string) error {
	if now, err := filepath.EvalSymlinks(dir); err == nil { // the store may have been moved
		dir = now
	}
	prefix := strings.TrimSuffix(dir, "/")
	return procmaps.Own(func(m procmaps.Mapping) error {
		// Including the index that replaces it, index.new, and the replaced one, index.old.
		if rest, ok := strings.CutPrefix(m.Path, prefix); !ok || rest == "" || rest[0] != '/' && rest[0] != '.' {
			return nil
		}
		if err := onRange(unix.SYS_MUNLOCK, m, 0); err != nil && !errors.Is(err, unix.ENOMEM) {
			return err
		}
		return nil
	})
}

// onRange makes a system call on an address range that is not a Go slice.
func onRange(call uintptr, m procmaps.Mapping, arg uintptr) error {
	if _, _, errno := unix.Syscall(call, m.Start, m.End-m.Start, arg); errno != 0 {
		return errno
	}
	return nil
}
