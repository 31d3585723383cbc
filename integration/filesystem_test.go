//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// filesystem describes how to create and check one kind of filesystem.
type filesystem struct {
	name  string
	mkfs  []string
	check []string // of an unmounted device, changing nothing
	// frozen are the mount options for a snapshot whose journal is not replayed.
	frozen string
	// copied are the mount options for a copy of a filesystem that is mounted too.
	copied string
}

var filesystems = []filesystem{
	{"ext4", []string{"mkfs.ext4", "-q", "-F"}, []string{"e2fsck", "-fn"}, "ro,noload", ""},
	{"xfs", []string{"mkfs.xfs", "-q", "-f"}, []string{"xfs_repair", "-n"}, "ro,norecovery,nouuid", "nouuid"},
	{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}, []string{"btrfs", "check", "--readonly"}, "ro,rescue=nologreplay", ""},
}

func fsNamed(name string) filesystem {
	for _, f := range filesystems {
		if f.name == name {
			return f
		}
	}
	panic("no filesystem " + name)
}

func (f filesystem) make(ctx context.Context, t *testing.T, dev string) {
	t.Helper()
	must(ctx, t, f.mkfs[0], append(f.mkfs[1:len(f.mkfs):len(f.mkfs)], dev)...)
}

// fsck checks the unmounted filesystem on dev, which must be clean.
func (f filesystem) fsck(ctx context.Context, t *testing.T, dev string) {
	t.Helper()
	r := run(ctx, f.check[0], append(f.check[1:len(f.check):len(f.check)], dev)...)
	if r.code != 0 {
		t.Fatalf("%s on %s: exit status %d\n%s%s", f.check[0], dev, r.code, r.stdout, r.stderr)
	}
}

// mounted is a filesystem that is mounted on a directory of the test.
type mounted struct {
	dir string
	t   *testing.T
}

// mount mounts dev until the end of the test, or until unmount is called.
func mount(ctx context.Context, t *testing.T, dev, options string) *mounted {
	t.Helper()
	m := &mounted{dir: t.TempDir(), t: t}
	args := []string{dev, m.dir}
	if options != "" {
		args = append([]string{"-o", options}, args...)
	}
	must(ctx, t, "mount", args...)
	t.Cleanup(func() {
		if m.dir != "" && unix.Unmount(m.dir, 0) != nil {
			_ = unix.Unmount(m.dir, unix.MNT_DETACH)
		}
	})
	return m
}

func (m *mounted) unmount(ctx context.Context) {
	m.t.Helper()
	unmount(ctx, m.t, m.dir)
	m.dir = ""
}

// unmount unmounts a directory. A process that was killed, or one of its children, may still have
// files there for a moment, and so may the kernel for it: it ends an io_uring in a work item
// (io_ring_exit_work in io_uring/io_uring.c, Linux 7.3). The test fails if the directory is busy for
// a minute.
func unmount(ctx context.Context, t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute * patience()); ; time.Sleep(20 * time.Millisecond) {
		r := run(ctx, "umount", dir)
		if r.code == 0 {
			return
		}
		if !strings.Contains(r.stderr, "busy") || time.Now().After(deadline) {
			t.Fatalf("umount %s: exit status %d: %s\n%s", dir, r.code, r.stderr, strings.Join(usersOf(dir), "\n"))
		}
	}
}

// usersOf lists the processes that have a file below a directory open, as a line for each file.
func usersOf(dir string) (users []string) {
	for _, pattern := range []string{"cwd", "root", "exe", "fd/*", "map_files/*"} {
		links, _ := filepath.Glob("/proc/[0-9]*/" + pattern) // the pattern is right
		for _, link := range links {
			file, err := os.Readlink(link)
			if err != nil || file != dir && !strings.HasPrefix(file, dir+"/") { // the process may have ended
				continue
			}
			process, _, _ := strings.Cut(strings.TrimPrefix(link, "/proc/"), "/")
			name, _ := os.ReadFile("/proc/" + process + "/comm")
			users = append(users, fmt.Sprintf("process %s (%s) has %s as %s", process, strings.TrimSpace(string(name)), file, link))
		}
	}
	return users
}

// awaitUnclaimed waits until no file system and no other device has a device, which may take a moment
// after the last process of a mount namespace has ended.
func awaitUnclaimed(t *testing.T, dev string) {
	t.Helper()
	eventually(t, time.Minute, dev+" is free", func() bool {
		fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err != nil {
			return false
		}
		return unix.Close(fd) == nil
	})
}

// losetup attaches a loop device to a file until the end of the test.
func losetup(ctx context.Context, t *testing.T, file string, args ...string) string {
	t.Helper()
	dev := must(ctx, t, "losetup", append(append([]string{"-f", "--show"}, args...), file)...)
	t.Cleanup(func() { run(context.Background(), "losetup", "-d", dev) })
	return dev
}

func TestFilesystemOnDevice(t *testing.T) {
	for i, f := range filesystems {
		for j, mode := range []string{"zero", "user", "plain"} {
			t.Run(f.name+"/"+mode, func(t *testing.T) {
				part := "crypto"
				if i == j { // each filesystem, and each mode, has the whole tree once
					part = "."
				}
				ctx := limit(t, 3*time.Minute)
				n := newNode(ctx, t)
				n.serve(ctx)
				dev := n.volume(ctx, "disk", "2G", "--copy-mode", mode)
				copyCheckCompare(ctx, t, f, dev, part)
				n.varve(ctx, "detach", "disk")
				if _, err := os.Stat(dev); err == nil {
					t.Errorf("%s is still there after detach", dev)
				}
			})
		}
	}
}

// TestFilesystemOnDiskStore tests a store on ext4 on a disk, where O_DIRECT and fdatasync have an
// effect.
func TestFilesystemOnDiskStore(t *testing.T) {
	ctx := limit(t, 6*time.Minute)
	disk := "/dev/ubda"
	fsNamed("ext4").make(ctx, t, disk)
	m := mount(ctx, t, disk, "")
	n := newNodeAt(ctx, t, filepath.Join(m.dir, "store"))
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "2G")
	copyCheckCompare(ctx, t, fsNamed("ext4"), dev, ".")
	n.varve(ctx, "detach", "disk")
	n.stop(ctx)
	n.serve(ctx)
	dev = n.attach(ctx, "disk")
	fsNamed("ext4").fsck(ctx, t, dev)
	again := mount(ctx, t, dev, "ro")
	compareTree(t, filepath.Join(again.dir, "copy"))
	again.unmount(ctx)
	n.varve(ctx, "detach", "disk")
	n.stop(ctx)
	m.unmount(ctx)
	fsNamed("ext4").fsck(ctx, t, disk)
}

// TestLoopTransport tests the transport for kernels without ublk: a loop device over the live file
// of a mount.
func TestLoopTransport(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "2G", "--transport", "loop")
	if !strings.HasPrefix(dev, "/dev/loop") {
		t.Fatalf("attach --transport loop gave %s", dev)
	}
	copyCheckCompare(ctx, t, fsNamed("ext4"), dev, ".")
	n.varve(ctx, "detach", "disk")
	out := must(ctx, t, "losetup", "-a")
	if strings.Contains(out, dev+":") {
		t.Errorf("%s is still there after detach: %s", dev, out)
	}
}

// copyCheckCompare takes a filesystem through its life: create, mount, copy a real tree or one of
// its directories, unmount, check, mount, compare.
func copyCheckCompare(ctx context.Context, t *testing.T, f filesystem, dev, part string) {
	t.Helper()
	tree := sourceTree(t)
	f.make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	must(ctx, t, "cp", "-a", filepath.Join(tree, part), filepath.Join(m.dir, "copy"))
	m.unmount(ctx)
	f.fsck(ctx, t, dev)
	m = mount(ctx, t, dev, "")
	comparePart(t, filepath.Join(m.dir, "copy"), part)
	must(ctx, t, "fstrim", m.dir)
	m.unmount(ctx)
	f.fsck(ctx, t, dev)
}
