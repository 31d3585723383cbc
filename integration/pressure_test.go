//go:build integration

package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests of this file run in a separate machine with little memory (integration/run): a store on
// a real disk, a filesystem on one of its volumes, and a process that takes the remaining memory.
// They write several times the memory through the page cache. Every run must end, with its data
// intact.

const (
	storeDisk = "/dev/ubda"
	swapDisk  = "/dev/ubdb"
)

// pressureBytes returns the amount that a run writes twice: VARVE_PRESSURE_MIB, or 192 MiB.
func pressureBytes(t *testing.T) int64 {
	t.Helper()
	n := int64(192)
	if s := os.Getenv("VARVE_PRESSURE_MIB"); s != "" {
		var err error
		if n, err = strconv.ParseInt(s, 10, 64); err != nil || n <= 0 {
			t.Fatalf("VARVE_PRESSURE_MIB=%q: want a number of MiB", s)
		}
	}
	return n << 20
}

func TestPressure(t *testing.T) {
	for _, c := range []struct {
		name string
		swap bool
		left int64 // MiB of memory for everything else; copies take some
		args []string
	}{
		{"zero", false, 96, []string{"--copy-mode", "zero"}},
		{"user", false, 128, []string{"--copy-mode", "user", "--depth", "32"}},
		{"plain", false, 128, []string{"--copy-mode", "plain", "--depth", "32"}},
		{"user/depth", false, 192, []string{"--copy-mode", "user"}},
		{"loop", false, 128, []string{"--transport", "loop"}},
		{"zero/swap", true, 0, []string{"--copy-mode", "zero"}},
		{"loop/swap", true, 0, []string{"--transport", "loop"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := limit(t, 3*time.Minute)
			n := nodeOnDisk(ctx, t)
			n.serve(ctx, "--memory-limit", "96M", "--tail-soft", "64M", "--tail-hard", "128M")
			dev := n.volume(ctx, "disk", "4G", c.args...)
			ext4 := fsNamed("ext4")
			ext4.make(ctx, t, dev)
			m := mount(ctx, t, dev, "")
			take := meminfo(t, "MemAvailable") - c.left<<20
			if c.swap {
				swapOn(ctx, t)
				take = meminfo(t, "MemTotal") * 5 / 4
			}
			hog := startHog(ctx, t, take)
			underPressure(ctx, t, n, m.dir)
			if !hog.running() {
				t.Errorf("the hog did not live to the end: there was no pressure any more, or too much: %v", hog.err)
			}
			hog.stop(ctx, t, syscall.SIGKILL)
			m.unmount(ctx)
			ext4.fsck(ctx, t, dev)
			noIOErrors(ctx, t, dev)
			n.varve(ctx, "detach", "disk")
			n.stop(ctx)
		})
	}
}

// nodeOnDisk creates a store on ext4 on the machine's first disk.
func nodeOnDisk(ctx context.Context, t *testing.T) *node {
	t.Helper()
	if total := meminfo(t, "MemTotal"); total > 1<<30 {
		t.Fatalf("this machine has %d MiB of memory: no pressure; these tests run with less than 1 GiB, see integration/run", total>>20)
	}
	must(ctx, t, "mkfs.ext4", "-q", "-F", "-E", "nodiscard", storeDisk)
	m := mount(ctx, t, storeDisk, "")
	return newNodeAt(ctx, t, filepath.Join(m.dir, "store"))
}

func swapOn(ctx context.Context, t *testing.T) {
	t.Helper()
	must(ctx, t, "mkswap", "-q", swapDisk)
	must(ctx, t, "swapon", swapDisk)
	t.Cleanup(func() { run(context.Background(), "swapoff", swapDisk) })
}

// underPressure writes a file, copies it, and reads both again after dropping all caches.
func underPressure(ctx context.Context, t *testing.T, n *node, dir string) {
	t.Helper()
	size := pressureBytes(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, 2 times %d MiB in %d MiB of memory, %d MiB available", seed, size>>20, meminfo(t, "MemTotal")>>20,
		meminfo(t, "MemAvailable")>>20)
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	began := time.Now()
	if err := writeStream(ctx, one, seed, size); err != nil {
		t.Fatal(err)
	}
	must(ctx, t, "cp", one, two)
	must(ctx, t, "sync", "-f", dir)
	written := time.Since(began)
	checkFlushers(t, n)
	checkLocked(t, n)
	dropCaches(t)
	for _, file := range []string{one, two} {
		if err := compareStream(ctx, file, seed, size); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("written and copied in %.1f s, compared after %.1f s; %d pages went to swap", written.Seconds(),
		time.Since(began).Seconds(), vmstat(t, "pswpout"))
}

// stream returns the bytes of a seed.
func stream(seed uint64) io.Reader {
	var s [32]byte
	for i := range 8 {
		s[i] = byte(seed >> (8 * i))
	}
	return rand.NewChaCha8(s)
}

func writeStream(ctx context.Context, file string, seed uint64, size int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	src, buf := stream(seed), make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("write %s: %d of %d MiB done: %w", file, off>>20, size>>20, err)
		}
		if _, err := io.ReadFull(src, buf); err != nil {
			return err
		}
		if _, err := f.Write(buf); err != nil {
			return err
		}
		if off>>20%128 == 127 {
			if err := f.Sync(); err != nil {
				return err
			}
		}
	}
	return f.Close()
}

func compareStream(ctx context.Context, file string, seed uint64, size int64) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	src, want, got := stream(seed), make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(want)) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read %s: %d of %d MiB done: %w", file, off>>20, size>>20, err)
		}
		if _, err := io.ReadFull(src, want); err != nil {
			return err
		}
		if _, err := io.ReadFull(f, got); err != nil {
			return fmt.Errorf("read %s at %d: %w", file, off, err)
		}
		if i := difference(want, got); i >= 0 {
			return fmt.Errorf("%s differs from what was written from byte %d on", file, off+int64(i))
		}
	}
	if n, err := f.Read(got); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s is longer than the %d bytes that were written", file, size)
	}
	return nil
}

func difference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// checkFlushers checks every thread of the daemon, including those that the kernel created for its
// rings: each must be an I/O flusher, with the flags PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE
// (include/linux/sched.h, 7.3).
func checkFlushers(t *testing.T, n *node) {
	t.Helper()
	const flusher = 0x00080000 | 0x00100000
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", n.cmd.Process.Pid))
	if err != nil || len(tasks) < 4 {
		t.Fatalf("threads of the daemon: %v, %v", tasks, err)
	}
	kinds := map[string]int{}
	for _, file := range tasks {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// PID (NAME) state ppid pgrp session tty tpgid flags …
		_, name, _ := strings.Cut(string(b), "(")
		name, rest, _ := strings.Cut(name, ") ")
		fields := strings.Fields(rest)
		flags, err := strconv.ParseUint(fields[6], 10, 64)
		if err != nil {
			t.Fatalf("%s: %s", file, b)
		}
		kinds[strings.TrimRight(name, "0123456789-")]++
		if flags&flusher != flusher {
			t.Errorf("thread %s (%s) of the daemon is no I/O flusher: flags %#x", filepath.Base(filepath.Dir(file)), name, flags)
		}
	}
	t.Logf("threads of the daemon, all I/O flushers: %v", kinds)
}

// TestPressureOutOfMemory starts a process that takes more memory than there is, without swap: the
// kernel kills that process and not the daemon, without which its device would not be served.
func TestPressureOutOfMemory(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	n := nodeOnDisk(ctx, t)
	n.serve(ctx, "--memory-limit", "96M", "--tail-soft", "64M", "--tail-hard", "128M")
	dev := n.volume(ctx, "disk", "2G", "--depth", "32")
	ext4 := fsNamed("ext4")
	ext4.make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	killed := vmstat(t, "oom_kill")
	hog := spawnHog(t, meminfo(t, "MemTotal")*2)
	underPressure(ctx, t, n, m.dir)
	select {
	case <-hog.done:
	case <-ctx.Done():
	}
	if killed = vmstat(t, "oom_kill") - killed; hog.running() || killed == 0 {
		t.Errorf("the kernel killed %d processes for memory; the hog runs: %v %s", killed, hog.running(), hog.out.String())
	}
	m.unmount(ctx)
	ext4.fsck(ctx, t, dev)
	noIOErrors(ctx, t, dev)
	n.varve(ctx, "detach", "disk")
	n.stop(ctx)
}

// checkLocked checks that no memory of the daemon is in swap.
func checkLocked(t *testing.T, n *node) {
	t.Helper()
	status := fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid)
	if kib := procValue(t, status, "VmSwap:"); kib > 0 {
		t.Errorf("%d KiB of the daemon are in swap", kib)
	}
	t.Logf("the daemon has %d MiB resident, %d MiB at most", procValue(t, status, "VmRSS:")>>10, procValue(t, status, "VmHWM:")>>10)
}

// TestPressureKill kills the daemon while memory is short: dirty pages cannot be written until the
// next daemon serves the device, and that daemon has to start, open the store and replay its
// journals in the remaining memory.
func TestPressureKill(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	n := nodeOnDisk(ctx, t)
	args := []string{"--memory-limit", "96M", "--tail-soft", "64M", "--tail-hard", "128M"}
	n.serve(ctx, args...)
	dev := n.volume(ctx, "disk", "4G")
	ext4 := fsNamed("ext4")
	ext4.make(ctx, t, dev)
	m := mount(ctx, t, dev, "errors=remount-ro")
	hog := startHog(ctx, t, meminfo(t, "MemAvailable")-128<<20)
	seed, size, file := uint64(time.Now().UnixNano()), 4*pressureBytes(t), filepath.Join(m.dir, "file")
	t.Logf("seed %d, %d MiB", seed, size>>20)
	written := make(chan error, 1)
	go func() { written <- writeStream(ctx, file, seed, size) }()
	kills, running := 0, true
	for running {
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		case <-time.After(700 * time.Millisecond):
			n.kill(ctx)
			kills++
			time.Sleep(300 * time.Millisecond) // dirty pages pile up
			n.serve(ctx, args...)
		}
	}
	must(ctx, t, "sync", "-f", m.dir)
	if kills < 2 {
		t.Errorf("%d kills while %d MiB were written: too few to tell", kills, size>>20)
	}
	dropCaches(t)
	if err := compareStream(ctx, file, seed, size); err != nil {
		t.Fatal(err)
	}
	t.Logf("crash: %d daemons killed while memory was short", kills)
	if !hog.running() {
		t.Errorf("the hog did not live to the end: %v", hog.err)
	}
	hog.stop(ctx, t, syscall.SIGKILL)
	m.unmount(ctx)
	ext4.fsck(ctx, t, dev)
	noIOErrors(ctx, t, dev)
	n.varve(ctx, "detach", "disk")
	n.stop(ctx)
}

// startHog starts a process that allocates memory and keeps touching it. It returns when the
// process has all of it, in memory or in swap.
func startHog(ctx context.Context, t *testing.T, take int64) *background {
	t.Helper()
	if take <= 0 {
		t.Fatalf("%d MiB available: nothing left for a hog", meminfo(t, "MemAvailable")>>20)
	}
	hog := spawnHog(t, take)
	for meminfo(t, "AnonPages")+swapped(t) < take*9/10 {
		select {
		case <-ctx.Done():
			t.Fatalf("the hog of %d MiB did not get its memory", take>>20)
		case <-hog.done:
			t.Fatalf("the hog of %d MiB ended: %v %s", take>>20, hog.err, hog.out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Logf("the hog has %d MiB", take>>20)
	return hog
}

func spawnHog(t *testing.T, take int64) *background {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, "env", fmt.Sprintf("%s=%d", hogEnv, take), exe)
}

// hogEnv makes the test program a hog of that many bytes.
const hogEnv = "VARVE_HOG"

// hog allocates memory and keeps touching all of it.
func hog(size string) error {
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	for round := byte(1); ; round++ {
		for i := 0; i < len(mem); i += os.Getpagesize() {
			mem[i] = round
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func swapped(t *testing.T) int64 { return meminfo(t, "SwapTotal") - meminfo(t, "SwapFree") }

// meminfo returns a line of /proc/meminfo in bytes.
func meminfo(t *testing.T, name string) int64 {
	t.Helper()
	return procValue(t, "/proc/meminfo", name+":") << 10
}

func vmstat(t *testing.T, name string) int64 {
	t.Helper()
	return procValue(t, "/proc/vmstat", name)
}

func procValue(t *testing.T, file, name string) int64 {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) >= 2 && fields[0] == name {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has no %s", file, name)
	return 0
}
