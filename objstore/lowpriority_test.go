package objstore

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// nices returns the nice value of each thread of the process.
func nices(t *testing.T) map[string]int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/stat")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("list the threads: %v", err)
	}
	all := map[string]int{}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		rest := string(b)[strings.LastIndexByte(string(b), ')')+1:] // the name may hold anything
		const field = 16                                            // of those behind the name
		fields := strings.Fields(rest)
		if all[filepath.Base(filepath.Dir(task))], err = strconv.Atoi(fields[field]); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// startThreads has Go start threads: n goroutines block in a system call until release is called.
func startThreads(t *testing.T, n int) (release func()) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	var blocked sync.WaitGroup
	for range n {
		blocked.Go(func() { _, _ = unix.Read(p[0], make([]byte, 1)) })
	}
	return func() {
		_ = unix.Close(p[1]) // all of them read the end
		blocked.Wait()
		_ = unix.Close(p[0])
	}
}

// Work at a low priority has a thread that has it, and that no other thread gets it from: neither
// those that Go starts meanwhile nor whatever runs on it later.
func TestAtLowPriority(t *testing.T) {
	const nice = 10
	before := nices(t)
	was := before[strconv.Itoa(os.Getpid())]
	want := min(was+nice, 19)
	atLowPriority(nice, func() {
		if got := nices(t)[strconv.Itoa(unix.Gettid())]; got != want {
			t.Errorf("the nice value is %d, want %d", got, want)
		}
		release := startThreads(t, 8) // so that Go starts some meanwhile
		defer release()
		low := 0
		for thread, n := range nices(t) {
			if at, known := before[thread]; known && n != at || !known && n != was {
				low++
			}
		}
		if low != 1 {
			t.Errorf("%d threads have another nice value than %d, want one", low, was)
		}
	})
	if after := nices(t)[strconv.Itoa(os.Getpid())]; after != was {
		t.Errorf("the process's nice value is %d afterwards, want %d", after, was)
	}
}
