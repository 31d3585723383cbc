package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// processTestEnv makes the test program prepare itself and say what has come of it: none of it can
// be undone.
const processTestEnv = "VARVE_TEST_PROCESS"

func TestPrepareProcess(t *testing.T) {
	if dir := os.Getenv(processTestEnv); dir != "" {
		testPrepared(t, dir)
		return
	}
	needSysResource(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run", "^TestPrepareProcess$", "-test.v")
	cmd.Env = append(os.Environ(), processTestEnv+"="+t.TempDir())
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("the process that prepares itself: %v", err)
	}
}

// needSysResource skips where the machine refuses what a test is about; in the test kernel it is
// there.
func needSysResource(t *testing.T) {
	t.Helper()
	if _, _, errno := unix.Syscall6(unix.SYS_PRCTL, unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0, 0); errno != 0 && os.Getenv("VARVE_VM") == "" {
		t.Skip("missing feature: CAP_SYS_RESOURCE")
	}
}

func testPrepared(t *testing.T, dir string) {
	var log strings.Builder
	index := filepath.Join(dir, "index")
	table := mapFile(t, filepath.Join(index, "000001.sst"))
	journal := mapFile(t, filepath.Join(dir, "journal", "one"))
	defer PrepareProcess(slog.New(slog.NewTextHandler(&log, nil)), ProcessOptions{MemoryLimit: 1 << 30, Unlocked: index})()
	if log.Len() > 0 {
		t.Errorf("something was refused: %s", &log)
	}
	if got := debug.SetMemoryLimit(-1); got != 1<<30 {
		t.Errorf("the heap's limit is %d bytes, want 1 GiB", got)
	}
	if b, err := os.ReadFile(oomScoreFile); err != nil || strings.TrimSpace(string(b)) != "-1000" {
		t.Errorf("oom_score_adj is %q, %v; want -1000", b, err)
	}
	flushersOnNewThreads(t)

	late := mapFile(t, filepath.Join(index, "000002.sst"))
	touch(table, journal, late)
	if got := lockedKB(t, late); got == 0 {
		t.Error("a file mapped later is not locked: MCL_FUTURE has no effect, and unlocking it shows nothing")
	}
	if err := unlockFiles(index); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string][]byte{"an index table": table, "a later index table": late} {
		if got := lockedKB(t, m); got != 0 {
			t.Errorf("%s has %d KiB locked, want none", name, got)
		}
	}
	if got := lockedKB(t, journal); got != mappedBytes>>10 {
		t.Errorf("a journal has %d KiB locked, want %d", got, mappedBytes>>10)
	}
	heapIsLockedAndGivenBack(t)
}

// flushersOnNewThreads reads the flag back on threads that the process makes now.
func flushersOnNewThreads(t *testing.T) {
	t.Helper()
	const threads = 16
	var made, asked sync.WaitGroup
	made.Add(threads)
	results := make([]error, threads)
	for i := range results {
		asked.Go(func() {
			runtime.LockOSThread() // and never unlocked, as a queue does it
			made.Done()
			made.Wait() // all at once, so that each is on a thread of its own
			got, _, errno := unix.Syscall6(unix.SYS_PRCTL, unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0, 0)
			if errno != 0 || got != 1 {
				results[i] = fmt.Errorf("PR_GET_IO_FLUSHER on thread %d: %d, %w", unix.Gettid(), got, errno)
			}
		})
	}
	asked.Wait()
	if err := errors.Join(results...); err != nil {
		t.Error(err)
	}
}

// heapIsLockedAndGivenBack: what Go takes is locked, and what it frees goes back to the system all
// the same.
func heapIsLockedAndGivenBack(t *testing.T) {
	t.Helper()
	const size = 64 << 20
	with := func() int {
		b := make([]byte, size)
		touch(b)
		if got := lockedKB(t, b); got < size>>10 {
			t.Errorf("of a heap object of %d KiB, %d KiB are locked", size>>10, got)
		}
		defer runtime.KeepAlive(b)
		return status(t, "VmRSS")
	}()
	debug.FreeOSMemory()
	if without := status(t, "VmRSS"); without > with-size>>10*3/4 {
		t.Errorf("%d KiB resident with an object of %d KiB, %d KiB after it was freed", with, size>>10, without)
	}
}

const mappedBytes = 64 << 10

func mapFile(t *testing.T, path string) []byte {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, mappedBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, mappedBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func touch(mem ...[]byte) {
	for _, m := range mem {
		for i := 0; i < len(m); i += 4096 {
			m[i]++
		}
	}
}

// lockedKB says how much of the mappings that b lies in is locked.
func lockedKB(t *testing.T, b []byte) int {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	var at, end uintptr
	if _, err := fmt.Sscanf(fmt.Sprintf("%p", b), "0x%x", &at); err != nil {
		t.Fatal(err)
	}
	end = at + uintptr(len(b))
	sum, inside := 0, false
	for line := range strings.Lines(string(smaps)) {
		var from, to uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			inside = from < end && to > at
		}
		if rest, ok := strings.CutPrefix(line, "Locked:"); ok && inside {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// status returns a line of /proc/self/status in KiB.
func status(t *testing.T, name string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s", name)
	return 0
}
