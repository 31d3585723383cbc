//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// setClock sets the wall clock of the test kernel, and corrects it when the test ends.
func setClock(t *testing.T, to time.Time) {
	t.Helper()
	tv := syscall.NsecToTimeval(to.UnixNano())
	if err := syscall.Settimeofday(&tv); err != nil {
		t.Fatalf("set the clock to %v: %v", to, err)
	}
}

// processorTime returns the CPU time that all threads of a process have used so far.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	var ticks int64
	for _, i := range []int{11, 12} { // utime and stime (proc_pid_stat(5)), in hundredths of a second
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// TestClockSteps sets the clock back and forth under a daemon: writes settle, snapshots are listed
// in the order of their creation, and the daemon uses no more CPU time than before.
func TestClockSteps(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "64M")
	began, wall := time.Now(), time.Now()
	t.Cleanup(func() { setClock(t, wall.Add(time.Since(began))) }) // by the monotonic clock
	var want []string
	for i, to := range []time.Time{
		wall.Add(-time.Hour),
		time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC),
		time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		wall.Add(-time.Hour),
	} {
		must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=64k", "count=3", fmt.Sprint("seek=", 16*i), "oflag=direct", "conv=notrunc", "status=none")
		setClock(t, to)
		before := processorTime(t, n.cmd.Process.Pid)
		eventually(t, 30*time.Second, fmt.Sprintf("what was written settles after the clock was set to %v", to), func() bool {
			return query[struct{ Tail int64 }](ctx, n, "stat").Tail == 0
		})
		time.Sleep(2 * time.Second) // two rounds of whatever looks at the clock now and then
		if used := processorTime(t, n.cmd.Process.Pid) - before; used > 4*time.Second {
			t.Errorf("the clock was set to %v, and the daemon took %v of processor", to, used)
		}
		snap := fmt.Sprint("snap", 9-i)
		n.snapshot(ctx, "disk@"+snap)
		want = append(want, snap)
	}
	var got []string
	for _, s := range query[[]struct{ Name string }](ctx, n, "snapshot", "list") {
		got = append(got, s.Name)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("snapshots %v, want %v, in the order in which they were made", got, want)
	}
	n.varve(context.WithoutCancel(ctx), "detach", "disk")
}
