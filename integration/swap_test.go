//go:build integration

package integration

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSwapOnDevice: swap on a device, directly or through the device mapper, is dangerous and
// appears in the log and in stat; attaching a volume with a swap area prints a note. While memory
// is not short, swap works: pages that were swapped out come back, also from the next daemon after
// a kill, and at swapoff.
func TestSwapOnDevice(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "sw", "128M")
	type swap struct {
		Area, Device, Volume string
		Used                 int64
	}
	swaps := func() []swap { return query[struct{ Swap []swap }](ctx, n, "stat").Swap }
	const said = "can stop the machine for good"
	swapsOn := func(area string) {
		t.Helper()
		if s := swaps(); len(s) > 0 {
			t.Fatalf("without swap on a device stat has %+v", s)
		}
		must(ctx, t, "mkswap", "-q", area)
		must(ctx, t, "swapon", area)
		t.Cleanup(func() { run(ctx, "swapoff", area) })
		if s := swaps(); len(s) != 1 || s[0].Area != area || s[0].Device != dev || s[0].Volume != "sw" {
			t.Fatalf("with swap on %s, stat has %+v", area, s)
		}
		eventually(t, 20*time.Second, "the log says that there is swap on "+area, func() bool {
			return strings.Contains(n.logTail(), said+" when memory runs out; swap to another disk\" area="+area+" device="+dev)
		})
	}
	must(ctx, t, "dmsetup", "create", "swap", "--noudevsync", "--table", "0 262144 linear "+dev+" 0")
	t.Cleanup(func() { run(ctx, "dmsetup", "remove", "--noudevsync", "swap") })
	above := "/dev/dm-" + must(ctx, t, "dmsetup", "info", "-c", "--noheadings", "-o", "minor", "swap")
	swapsOn(above)
	must(ctx, t, "swapoff", above)
	must(ctx, t, "dmsetup", "remove", "--noudevsync", "swap")
	swapsOn(dev)
	if out := n.varve(ctx, "stat"); !strings.Contains(out, "DANGER: "+dev) {
		t.Errorf("stat does not warn:\n%s", out)
	}

	mem := swappable(t, 32<<20)
	pageOut(t, mem)
	if s := swaps(); len(s) != 1 || s[0].Used < int64(len(mem))/2 {
		t.Errorf("after %d bytes were swapped out, stat has %+v", len(mem), s)
	}
	n.kill(ctx)
	n.serve(ctx)
	if s := swaps(); len(s) != 1 {
		t.Errorf("the next daemon's stat has %+v", s)
	}
	checkSwappable(t, mem)
	pageOut(t, mem)
	must(ctx, t, "swapoff", dev)
	checkSwappable(t, mem)
	if s := swaps(); len(s) > 0 {
		t.Errorf("after swapoff stat has %+v", s)
	}
	n.varve(ctx, "detach", "sw")
	r := n.try(ctx, "attach", "sw")
	if r.code != 0 || !strings.Contains(r.stderr, "holds a swap area") || !strings.Contains(r.stderr, said) {
		t.Errorf("attaching a volume that holds a swap area: status %d, %s", r.code, r.stderr)
	}
}

// swappable returns memory whose pages all differ, until the end of the test.
func swappable(t *testing.T, size int) []byte {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	for i := 0; i < size; i += 8 {
		v := uint64(i) * 0x9e3779b97f4a7c15
		for j := range 8 {
			mem[i+j] = byte(v >> (8 * j))
		}
	}
	return mem
}

func checkSwappable(t *testing.T, mem []byte) {
	t.Helper()
	for i := 0; i < len(mem); i += 8 {
		v := uint64(i) * 0x9e3779b97f4a7c15
		for j := range 8 {
			if mem[i+j] != byte(v>>(8*j)) {
				t.Fatalf("byte %d of what was swapped out is %#x, want %#x", i+j, mem[i+j], byte(v>>(8*j)))
			}
		}
	}
}

// pageOut makes the kernel swap memory out.
func pageOut(t *testing.T, mem []byte) {
	t.Helper()
	if err := unix.Madvise(mem, unix.MADV_PAGEOUT); err != nil {
		t.Fatal(err)
	}
	if kib := procValue(t, "/proc/self/status", "VmSwap:"); kib<<10 < int64(len(mem))/2 {
		t.Fatalf("%d KiB of %d bytes were swapped out", kib, len(mem))
	}
}
