//go:build integration

package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"varve/objstore/failpoint"
)

// bytesOf returns the size of a block device, as the kernel has it.
func bytesOf(ctx context.Context, t *testing.T, dev string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(must(ctx, t, "blockdev", "--getsize64", dev), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// growFS grows a mounted filesystem to the size of its device.
func growFS(ctx context.Context, t *testing.T, name, dev, dir string) {
	t.Helper()
	if name == "xfs" {
		must(ctx, t, "xfs_growfs", dir)
		return
	}
	must(ctx, t, "resize2fs", dev)
}

// TestResizeUnderFilesystem grows ext4 and xfs while they are mounted and written to, with a snapshot
// before, the daemon killed between growing the volume and the filesystem, and killed under load
// afterwards. The whole tree is there at the end, in the part that was added too.
func TestResizeUnderFilesystem(t *testing.T) {
	for _, name := range []string{"ext4", "xfs"} {
		for _, transport := range []string{"ublk", "loop"} {
			t.Run(name+" on "+transport, func(t *testing.T) {
				ctx := limit(t, 5*time.Minute)
				n := newNode(ctx, t)
				n.serve(ctx)
				dev := n.volume(ctx, "disk", "400M", "--transport", transport)
				fs := fsNamed(name)
				fs.make(ctx, t, dev)
				m := mount(ctx, t, dev, "")
				must(ctx, t, "cp", "-a", filepath.Join(sourceTree(t), "net"), m.dir+"/before")
				must(ctx, t, "sync", "-f", m.dir)
				n.snapshot(ctx, "disk@small")
				for i, size := range []int64{700 << 20, 1200 << 20} {
					if out := n.varve(ctx, "volume", "resize", "disk", fmt.Sprintf("%dM", size>>20)); out != "" {
						t.Errorf("resize prints %q", out)
					}
					if got := bytesOf(ctx, t, dev); got != size {
						t.Fatalf("%s has %d bytes, want %d", dev, got, size)
					}
					if transport == "ublk" { // a loop device does not outlive its daemon
						n.kill(ctx)
						n.serve(ctx)
					}
					growFS(ctx, t, name, dev, m.dir)
					// More than there was room for before.
					load := start(t, "dd", "if=/dev/urandom", "of="+fmt.Sprintf("%s/random%d", m.dir, i), "bs=1M", "count=350", "conv=fsync", "status=none")
					if transport == "ublk" {
						time.Sleep(time.Second)
						n.kill(ctx)
						n.serve(ctx)
					}
					load.wait(ctx, t)
				}
				want := sum(t, m.dir+"/random1")
				m.unmount(ctx)
				fs.fsck(ctx, t, dev)
				m = mount(ctx, t, dev, "")
				if sum(t, m.dir+"/random1") != want {
					t.Error("what was written to the part that was added is not there")
				}
				must(ctx, t, "diff", "-r", filepath.Join(sourceTree(t), "net"), m.dir+"/before")
				m.unmount(ctx)
				snap := n.attach(ctx, "disk@small")
				if got := bytesOf(ctx, t, snap); got != 400<<20 {
					t.Errorf("the snapshot has %d bytes", got)
				}
				n.varve(ctx, "detach", "disk@small")
				n.refuse(ctx, []string{"disk", "in use", dev}, "volume", "resize", "disk", "300M", "--shrink")
				n.varve(ctx, "detach", "disk")
				n.refuse(ctx, []string{"disk", "--shrink"}, "volume", "resize", "disk", "300M")
				n.varve(ctx, "volume", "resize", "disk", "300M", "--shrink")
				if got := bytesOf(ctx, t, n.attach(ctx, "disk", "--transport", transport)); got != 300<<20 {
					t.Errorf("the volume has shrunk to %d bytes", got)
				}
			})
		}
	}
}

// TestResizeKilledHalfway kills the daemon when a volume has grown and its device has not. The next
// daemon gives the device its size.
func TestResizeKilledHalfway(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := failpointNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "64M")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=64", "oflag=direct", "status=none")
	want := sum(t, dev)
	n.kill(ctx)
	n.env = []string{"VARVE_FAILPOINT=" + string(failpoint.ResizeRecorded) + ":1"}
	n.serve(ctx)
	if r := n.try(ctx, "volume", "resize", "disk", "96M"); r.code == 0 {
		t.Fatal("the daemon was not killed")
	}
	n.awaitEnd(ctx)
	if got := bytesOf(ctx, t, dev); got != 64<<20 {
		t.Fatalf("the device has %d bytes before its volume is known to have grown", got)
	}
	n.env = nil
	n.serve(ctx)
	if got := bytesOf(ctx, t, dev); got != 96<<20 {
		t.Errorf("the device has %d bytes", got)
	}
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "seek=64", "count=32", "oflag=direct", "conv=notrunc", "status=none")
	must(ctx, t, "sh", "-c", fmt.Sprintf("test $(head -c 64M %s | sha256sum | cut -d' ' -f1) = %s", dev, want))
}
