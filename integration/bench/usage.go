package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is the processor time of a process with all its threads so far, as the guest accounts for
// it.
type usage struct {
	server   time.Duration
	switches int64 // voluntary
}

// readUsage reads the usage of the process pid, 0 being none.
func readUsage(pid int) (usage, error) {
	var u usage
	if pid == 0 {
		return u, nil
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		return u, fmt.Errorf("read /proc/%d: the server is gone", pid)
	}
	for _, task := range tasks {
		u.addTask(task)
	}
	return u, nil
}

// addTask adds the usage of one thread; a thread that has just ended adds nothing.
func (u *usage) addTask(task string) {
	if b, err := os.ReadFile(task + "/stat"); err == nil {
		// The name, in parentheses, may hold anything.
		rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
		if fields := strings.Fields(rest); len(fields) > 13 {
			user, _ := strconv.ParseInt(fields[11], 10, 64)
			system, _ := strconv.ParseInt(fields[12], 10, 64)
			u.server += time.Duration(user+system) * 10 * time.Millisecond
		}
	}
	f, err := os.Open(task + "/status")
	if err != nil {
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), "voluntary_ctxt_switches:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			u.switches += n
		}
	}
}

func (u usage) since(before usage) usage {
	return usage{server: u.server - before.server, switches: u.switches - before.switches}
}

// spin does a fixed piece of arithmetic, about 20 ms of it, and returns how long that took: longer
// when something else has the processor, inside the machine or around it.
func spin() time.Duration {
	start := time.Now()
	x := uint64(start.UnixNano()) | 1
	for range 12_000_000 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	took := time.Since(start)
	if x == 0 { // xorshift never gets there; the compiler does not know
		return 0
	}
	return took
}
