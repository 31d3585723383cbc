//go:build integration

package integration

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// nodeOf returns a node for an existing store.
func nodeOf(t *testing.T, store string) *node {
	t.Helper()
	n := &node{t: t, store: store, logs: filepath.Join(t.TempDir(), "daemon.log")}
	t.Cleanup(n.takeDown)
	return n
}

// devices is what stat shows of a store's devices.
type devices struct {
	UUID     string
	Attached []struct{ Volume, Device, State string }
	Foreign  []struct{ Volume, Device, Error string }
}

// wantForeign checks that the node leaves exactly the foreign devices alone, and serves or tries
// those of served.
func (n *node) wantForeign(ctx context.Context, dev string, served ...string) devices {
	n.t.Helper()
	d := query[devices](ctx, n, "stat")
	var attached []string
	for _, a := range d.Attached {
		attached = append(attached, a.Device)
	}
	if !slices.Equal(attached, served) {
		n.t.Errorf("attached are %q, want %q", attached, served)
	}
	var foreign []string
	for _, f := range d.Foreign {
		foreign = append(foreign, f.Device)
	}
	if want := strings.Fields(dev); !slices.Equal(foreign, want) {
		n.t.Errorf("left alone are %q, want %q", foreign, want)
	}
	return d
}

// sameFile checks a file's content after dropping the page cache.
func sameFile(ctx context.Context, t *testing.T, path, want string) {
	t.Helper()
	must(ctx, t, "sync", "-f", filepath.Dir(path))
	dropCaches(t)
	b, err := os.ReadFile(path)
	if err != nil || string(b) != want {
		t.Fatalf("%s reads as %.40q, %v; want %.40q", path, b, err, want)
	}
}

// TestCopyLeavesDevices: the daemon of a copied store never takes over or removes the devices of
// the original, whether they are mounted, served or not. Both stores' volumes can be attached at
// the same time.
func TestCopyLeavesDevices(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "a", "64M")
	loop := n.volume(ctx, "looped", "1M", "--transport", "loop")
	fsNamed("ext4").make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	file := filepath.Join(m.dir, "file")
	must(ctx, t, "sh", "-c", "echo before >"+file+"; sync -f "+file)
	c := nodeOf(t, filepath.Join(t.TempDir(), "copy"))
	must(ctx, t, "sh", "-c", `cp -a "$0" "$1" && rm -f "$1/varve.sock"`, n.store, c.store)
	write := func(text string) {
		t.Helper()
		must(ctx, t, "sh", "-c", "echo "+text+" >"+file+"; sync -f "+file)
		sameFile(ctx, t, file, text+"\n")
	}

	c.serve(ctx) // while the original serves
	d := c.wantForeign(ctx, dev)
	if len(d.Foreign) == 1 && !strings.Contains(d.Foreign[0].Error, "copy") {
		t.Errorf("it is left alone because %q", d.Foreign[0].Error)
	}
	wantLog(t, c, "left alone", "--new-uuid")
	write("served")
	must(ctx, t, "dd", "if="+loop, "of=/dev/null", "bs=1M", "count=1", "iflag=direct", "status=none")
	n.varve(ctx, "detach", loop)
	for _, target := range []string{"a", dev} {
		c.refuse(ctx, []string{dev, "not this store's", "--moved", "--new-uuid"}, "detach", target, "--force")
	}

	n.kill(ctx) // the device waits
	c.kill(ctx)
	c.serve(ctx)
	c.wantForeign(ctx, dev)
	c.refuse(ctx, []string{dev, "not this store's"}, "detach", dev, "--force")

	// The copy of the volume was made while it was in use, and returns to its settled state.
	c.refuse(ctx, []string{"a copy", "in use", "varve set --copied-from", "varve volume repair"}, "attach", "a")
	c.varve(ctx, "volume", "repair", "a", "--accept-loss")
	own := c.attach(ctx, "a")
	c.wantForeign(ctx, dev, own)
	if own == dev {
		t.Fatalf("the copy's device is the original's, %s", dev)
	}
	must(ctx, t, "dd", "if=/dev/urandom", "of="+own, "bs=1M", "count=16", "oflag=direct", "status=none")
	uuid := c.varve(ctx, "set", "--new-uuid")

	n.serve(ctx)
	write("again")
	if got := query[devices](ctx, n, "stat").UUID; got == uuid || got != d.UUID {
		t.Errorf("the original's UUID is %s; it was %s, and the copy's is %s", got, d.UUID, uuid)
	}
	if d := c.wantForeign(ctx, "", own); d.UUID != uuid {
		t.Errorf("the copy's UUID is %s, not %s", d.UUID, uuid)
	}
	c.varve(ctx, "detach", "a", "--force")
	write("once more")
	m.unmount(ctx)
	fsNamed("ext4").fsck(ctx, t, dev)
	noIOErrors(ctx, t, dev)
}

// TestMovedStore: a store that was moved to another filesystem while its daemon was dead gets its
// devices back with varve set --moved; one that was renamed needs no command. Nothing that was
// acknowledged is lost.
func TestMovedStore(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	other := t.TempDir()
	must(ctx, t, "mount", "-t", "tmpfs", "none", other)
	t.Cleanup(func() { run(context.Background(), "umount", "-l", other) })
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "a", "64M")
	fsNamed("ext4").make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	file := filepath.Join(m.dir, "file")
	random := filepath.Join(t.TempDir(), "random")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+random, "bs=64k", "count=100", "status=none")
	copyIn := func() {
		t.Helper()
		must(ctx, t, "dd", "if="+random, "of="+file, "bs=64k", "oflag=direct", "status=none") // not flushed
	}
	same := func() {
		t.Helper()
		must(ctx, t, "dd", "if="+file, "of=/dev/null", "bs=64k", "iflag=direct", "status=none")
		if sum(t, file) != sum(t, random) {
			t.Fatal("what was written is not there")
		}
	}
	copyIn()
	n.kill(ctx)
	renamed := n.store + "-renamed"
	must(ctx, t, "mv", n.store, renamed)
	n.store = renamed
	n.serve(ctx)
	n.wantForeign(ctx, "", dev)
	same()
	copyIn()
	n.kill(ctx)
	moved := filepath.Join(other, "store")
	must(ctx, t, "mv", n.store, moved) // to another filesystem
	n.store = moved
	n.serve(ctx)
	n.wantForeign(ctx, dev)
	n.refuse(ctx, []string{"varve stop"}, "set", "--moved")
	n.stop(ctx)
	if said := n.varve(ctx, "set", "--moved"); !strings.Contains(said, dev) || !strings.Contains(said, "volume a is in service") {
		t.Errorf("set --moved says %q", said)
	}
	n.serve(ctx)
	n.wantForeign(ctx, "", dev)
	same()
	n.kill(ctx) // and it stays so
	n.serve(ctx)
	n.wantForeign(ctx, "", dev)
	m.unmount(ctx)
	fsNamed("ext4").fsck(ctx, t, dev)
	noIOErrors(ctx, t, dev)
	n.varve(ctx, "detach", "a")
}

// diskImage is a filesystem in a file, on a loop device.
type diskImage struct{ file, loop, dir string }

func newDiskImage(ctx context.Context, t *testing.T, kind string) *diskImage {
	t.Helper()
	d := &diskImage{file: filepath.Join(t.TempDir(), "disk"), dir: t.TempDir()}
	must(ctx, t, "truncate", "-s", "1G", d.file)
	d.loop = losetup(ctx, t, d.file)
	fsNamed(kind).make(ctx, t, d.loop)
	d.mount(ctx, t)
	return d
}

func (d *diskImage) mount(ctx context.Context, t *testing.T) {
	t.Helper()
	must(ctx, t, "mount", d.loop, d.dir)
	dir := d.dir
	t.Cleanup(func() { run(context.Background(), "umount", "-l", dir) })
}

// TestBackupBySnapshot: a snapshot of the disk below a served store has everything that was flushed
// and opens without further commands, and its daemon leaves the original's devices alone. A copy of
// the files in the snapshot needs varve set. The disk itself, mounted again with another device
// number, looks like a snapshot: its administrator has to say.
func TestBackupBySnapshot(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			ctx := limit(t, 3*time.Minute)
			disk := newDiskImage(ctx, t, kind)
			n := newNodeAt(ctx, t, filepath.Join(disk.dir, "store"))
			n.serve(ctx, "--settle-delay", "1h", "--reserve", "32M")
			dev := n.volume(ctx, "a", "16M")
			fill(ctx, t, dev, "fsync")
			flushed := sum(t, dev)

			must(ctx, t, "fsfreeze", "-f", disk.dir)
			snap := &diskImage{file: disk.file + ".snap", dir: t.TempDir()}
			must(ctx, t, "cp", "--sparse=always", disk.file, snap.file)
			must(ctx, t, "fsfreeze", "-u", disk.dir)
			snap.loop = losetup(ctx, t, snap.file)
			must(ctx, t, "mount", "-o", map[string]string{"ext4": "rw", "xfs": "nouuid"}[kind], snap.loop, snap.dir)
			t.Cleanup(func() { run(context.Background(), "umount", "-l", snap.dir) })
			copied := filepath.Join(t.TempDir(), "store")
			must(ctx, t, "cp", "-a", filepath.Join(snap.dir, "store"), copied)

			s := nodeOf(t, filepath.Join(snap.dir, "store"))
			s.serve(ctx, "--reserve", "32M")
			s.wantForeign(ctx, dev)
			own := s.attach(ctx, "a")
			if got := sum(t, own); own == dev || got != flushed {
				t.Errorf("the snapshot's volume, on %s, is not what was flushed", own)
			}
			s.stop(ctx, "--detach")

			b := nodeOf(t, copied)
			b.serve(ctx, "--reserve", "32M")
			b.refuse(ctx, []string{"copy", "in use"}, "attach", "a")
			b.varve(ctx, "set", "--new-uuid", "--copied-from", "snapshot")
			own = b.attach(ctx, "a")
			if got := sum(t, own); own == dev || got != flushed {
				t.Errorf("the volume that was copied from the snapshot, on %s, is not what was flushed", own)
			}
			b.stop(ctx, "--detach")

			remountElsewhere(ctx, t, n, disk, dev)
		})
	}
}

// remountElsewhere mounts the disk of a store, whose daemon is dead and whose device waits, with
// another device number.
func remountElsewhere(ctx context.Context, t *testing.T, n *node, disk *diskImage, dev string) {
	t.Helper()
	fill(ctx, t, dev, "notrunc") // not flushed
	whole := sum(t, dev)
	n.kill(ctx)
	unmount(ctx, t, disk.dir)
	other := losetup(ctx, t, disk.file) // the first loop device remains, so this one gets another number
	disk.loop = other
	disk.mount(ctx, t)
	n.serve(ctx, "--reserve", "32M")
	n.wantForeign(ctx, dev)
	n.refuse(ctx, []string{"a snapshot of it", "mounted anew", "varve set"}, "attach", "a")
	n.stop(ctx)
	n.varve(ctx, "set", "--moved")
	n.serve(ctx, "--reserve", "32M")
	n.wantForeign(ctx, "", dev)
	if sum(t, dev) != whole {
		t.Error("what was written and not flushed is lost")
	}
	noIOErrors(ctx, t, dev)
	n.varve(ctx, "detach", "a")
	n.stop(ctx)
}

// fill writes random bytes to the whole of a device of 16 MiB.
func fill(ctx context.Context, t *testing.T, dev, conv string) {
	t.Helper()
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=64k", "count=256", "iflag=fullblock", "oflag=direct", "conv="+conv, "status=none")
}

// TestBackupOfStoppedStore: the files of a store whose daemon was stopped are a backup of it,
// settled or not. The backup can be restored to the store's directory or to another.
func TestBackupOfStoppedStore(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx, "--settle-delay", "1h")
	dev := n.volume(ctx, "a", "16M")
	fill(ctx, t, dev, "fsync")
	want := sum(t, dev)
	n.stop(ctx, "--detach")
	backup := filepath.Join(t.TempDir(), "backup")
	must(ctx, t, "cp", "-a", n.store, backup)

	n.serve(ctx, "--settle-delay", "1h") // the store goes on, and is lost
	dev = n.attach(ctx, "a")
	fill(ctx, t, dev, "fsync")
	n.stop(ctx, "--detach")
	must(ctx, t, "rm", "-rf", n.store)
	must(ctx, t, "cp", "-a", backup, n.store)
	beside := nodeOf(t, backup)
	for _, b := range []*node{n, beside} {
		b.serve(ctx)
		dev := b.attach(ctx, "a")
		if sum(t, dev) != want {
			t.Errorf("the volume of %s is not what it was when it was copied", b.store)
		}
		b.varve(ctx, "check")
	}
}
