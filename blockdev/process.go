package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// alive reports whether the process exists and is not a zombie.
func alive(pid int) bool {
	if pid <= 0 || errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) // without /proc the signal has to do
	}
	// pid (command) state ...: the command may hold anything.
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// Bits of /proc/PID/stat and /proc/PID/status.
const (
	pfExiting   = 0x4                           // PF_EXITING of the kernel's include/linux/sched.h
	killPending = 1 << (uint(unix.SIGKILL) - 1) // in SigPnd and ShdPnd, proc_pid_status(5)
)

// dying reports whether a living process is about to end: it has begun to exit, or was sent
// SIGKILL.
func dying(pid int) bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // no such process: nothing is read
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return exiting(stat) || killed(string(status))
}

// exiting reports whether a process's flags have PF_EXITING. stat is "pid (command) state ppid pgrp
// session tty tpgid flags ...".
func exiting(stat []byte) bool {
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(f[6], 10, 64)
	return err == nil && flags&pfExiting != 0
}

// killed reports whether SIGKILL is among the pending signals of a process.
func killed(status string) bool {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if name != "SigPnd" && name != "ShdPnd" {
			continue
		}
		if set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil && set&killPending != 0 {
			return true
		}
	}
	return false
}
