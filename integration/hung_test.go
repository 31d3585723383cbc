//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hungDevice returns a ublk device of another program whose lock in the driver is taken until the
// test ends: the device is being stopped, and its server, itself stopped by a signal, does not
// answer the read that is under way.
func hungDevice(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dev := freeNode(t)
	server := start(t, varve, "ublk", "add", "--foreground", "--target", "loop", "--file", file)
	eventually(t, 10*time.Second, dev+" is served", func() bool {
		return strings.Contains(server.out.String(), dev)
	})
	signal := func(sig syscall.Signal) {
		if err := syscall.Kill(server.cmd.Process.Pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	read := start(t, "dd", "if="+dev, "of=/dev/null", "bs=4k", "count=1", "iflag=direct")
	inFlight := filepath.Join("/sys/class/block", filepath.Base(dev), "inflight")
	eventually(t, time.Minute, "the read is under way", func() bool {
		b, err := os.ReadFile(inFlight)
		f := strings.Fields(string(b))
		return err == nil && len(f) > 0 && f[0] != "0"
	})
	del := start(t, varve, "ublk", "del", "--force", dev)
	t.Cleanup(func() {
		signal(syscall.SIGCONT)
		<-read.done
		<-del.done
	})
	eventually(t, time.Minute, "the stop waits for the read", func() bool {
		return !del.running() || waitsInKernel(del.cmd.Process.Pid)
	})
	if !read.running() || !del.running() {
		t.Fatalf("%s does not hang: %s%s", dev, &read.out, &del.out)
	}
	return dev
}

// waitsInKernel reports whether a thread of a process waits in the kernel and cannot be killed.
func waitsInKernel(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is right
	return slices.ContainsFunc(tasks, func(file string) bool {
		b, _ := os.ReadFile(file) // it may have ended
		return strings.Contains(string(b), ") D ")
	})
}

// TestHungDeviceDelaysNothing: while the driver does not give up the lock of another program's
// device, a daemon starts, takes over its own devices, attaches, detaches and stops as ever, and
// the device is listed.
func TestHungDeviceDelaysNothing(t *testing.T) {
	ctx := limit(t, time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "v", "16M")
	n.kill(ctx)
	hung := hungDevice(t)
	soon := func(what string, f func()) {
		t.Helper()
		began := time.Now()
		f()
		took := time.Since(began)
		t.Logf("%s: %v", what, took)
		if deadline, _ := ctx.Deadline(); took > 8*time.Second && time.Until(deadline) > 0 {
			t.Errorf("%s took %v beside a device that hangs", what, took)
		}
	}
	soon("a start", func() { n.serve(ctx) })
	soon("a read of the device that was taken over", func() { must(ctx, t, "dd", "if="+dev, "of=/dev/null", "bs=4k", "count=1", "iflag=direct") })
	soon("listing all devices", func() {
		if list := n.varve(ctx, "ublk", "list"); !strings.Contains(list, dev) || !strings.Contains(list, hung) {
			t.Errorf("%s or %s is missing:\n%s", dev, hung, list)
		}
	})
	soon("an attach", func() { n.volume(ctx, "w", "16M") })
	soon("stat", func() { n.varve(ctx, "stat") })
	soon("a detach", func() { n.varve(ctx, "detach", "v") })
	soon("an upgrade", func() { n.varve(ctx, "upgrade") })
	n.cmd, n.background = nil, true
	soon("a stop", func() { n.varve(ctx, "stop") })
	n.background = false
}
