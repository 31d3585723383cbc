//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// attachedNow is the list of attached devices.
type attachedNow []struct {
	Volume, Device, Snapshot string
	ReadOnly                 bool   `json:"read_only"`
	MountedAt                string `json:"mounted_at"`
}

// snapshotDevices returns the devices of snapshots.
func (n *node) snapshotDevices(ctx context.Context) attachedNow {
	n.t.Helper()
	var list attachedNow
	for _, a := range query[struct{ Attached attachedNow }](ctx, n, "stat").Attached {
		if a.Snapshot != "" {
			list = append(list, a)
		}
	}
	return list
}

// wantNoScratch waits until no device and no scratch volume of a snapshot is left. After umount(8)
// the daemon removes the node first, then what it knows of the device, then the volume.
func (n *node) wantNoScratch(ctx context.Context, device string) {
	n.t.Helper()
	for deadline := time.Now().Add(time.Minute * patience()); ; time.Sleep(20 * time.Millisecond) {
		left := n.scratchLeft(ctx, device)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("left of snapshots in the end: %s", strings.Join(left, ", "))
		}
	}
}

// scratchLeft lists what is left of the devices and the scratch volumes of snapshots.
func (n *node) scratchLeft(ctx context.Context, device string) (left []string) {
	n.t.Helper()
	if _, err := os.Stat(device); !os.IsNotExist(err) && !strings.HasPrefix(device, "/dev/loop") {
		left = append(left, device)
	}
	for _, a := range n.snapshotDevices(ctx) {
		left = append(left, fmt.Sprintf("%+v", a))
	}
	journals, err := filepath.Glob(filepath.Join(n.store, "journal", "*"))
	if err != nil {
		n.t.Fatal(err)
	}
	volumes := query[[]struct{ ID string }](ctx, n, "volume", "list")
	for _, j := range journals {
		if !slices.ContainsFunc(volumes, func(v struct{ ID string }) bool { return strings.HasPrefix(filepath.Base(j), v.ID) }) {
			left = append(left, j)
		}
	}
	return left
}

// TestSnapshotMount mounts snapshots of filesystems that are mounted and in use. Each has the
// content of the time when it was taken, even after the daemon was killed, keeps writes to itself,
// and leaves nothing when it is unmounted.
func TestSnapshotMount(t *testing.T) {
	for _, f := range filesystems {
		t.Run(f.name, func(t *testing.T) {
			ctx := limit(t, 3*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx)
			dev := n.volume(ctx, "disk", "512M")
			f.make(ctx, t, dev)
			m := mount(ctx, t, dev, "")
			tree := filepath.Join(sourceTree(t), "net")
			must(ctx, t, "cp", "-a", tree, filepath.Join(m.dir, "tree"))
			must(ctx, t, "sync", "-f", m.dir)
			// A file that was only fsynced may be in the journal and nowhere else when the snapshot
			// is taken.
			job := start(t, "sh", "-c", fmt.Sprintf("while :; do dd if=/dev/urandom of=%[1]s/new bs=64k count=4 conv=fsync status=none && mv %[1]s/new %[1]s/busy || exit 1; done", m.dir))
			eventually(t, time.Minute, "the volume is written", func() bool {
				_, err := os.Stat(filepath.Join(m.dir, "busy"))
				return err == nil
			})
			n.varve(ctx, "snapshot", "create", "disk@one")
			must(ctx, t, "rm", "-r", filepath.Join(m.dir, "tree"))

			dir := t.TempDir()
			type mountedSnapshot struct{ Device, Dir, Type, Snapshot string }
			s := query[mountedSnapshot](ctx, n, "snapshot", "mount", "disk@one", dir)
			t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
			if s.Dir != dir || s.Type != f.name || s.Snapshot != "disk@one" {
				t.Errorf("snapshot mount says %+v", s)
			}
			must(ctx, t, "diff", "-r", tree, filepath.Join(dir, "tree"))
			if _, err := os.Stat(filepath.Join(dir, "busy")); err != nil {
				t.Errorf("a file that was fsynced before the snapshot is not in it: %v", err)
			}
			if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err == nil {
				t.Error("the mount accepts writes without --writable")
			}
			n.refuse(ctx, []string{"disk@one", "in use", s.Device}, "snapshot", "delete", "disk@one")
			if list := query[[]struct{ Name string }](ctx, n, "volume", "list"); len(list) != 1 {
				t.Errorf("volumes are %+v, want disk alone", list)
			}

			n.kill(ctx)
			n.serve(ctx)
			if list := n.snapshotDevices(ctx); len(list) != 1 || list[0].MountedAt != dir || list[0].Snapshot != "disk@one" {
				t.Errorf("after the death of the daemon snapshots are on %+v", list)
			}
			dropCaches(t)
			must(ctx, t, "diff", "-r", tree, filepath.Join(dir, "tree"))
			n.varve(ctx, "snapshot", "umount", dir)
			n.wantNoScratch(ctx, s.Device)

			// Again, to write to it; unmounted by umount(8).
			s = query[mountedSnapshot](ctx, n, "snapshot", "mount", "disk@one", dir, "--writable")
			must(ctx, t, "rm", "-r", filepath.Join(dir, "tree"))
			must(ctx, t, "cp", "-a", tree, filepath.Join(dir, "mine"))
			n.kill(ctx)
			n.serve(ctx)
			must(ctx, t, "sync", "-f", dir)
			must(ctx, t, "diff", "-r", tree, filepath.Join(dir, "mine"))
			unmount(ctx, t, dir)
			n.wantNoScratch(ctx, s.Device)
			if !job.running() {
				t.Fatalf("the volume failed meanwhile: %s", job.out.String())
			}
			job.stop(ctx, t, syscall.SIGTERM)
			if _, err := os.Stat(filepath.Join(m.dir, "mine")); err == nil {
				t.Error("the volume has what was written to the snapshot's mount")
			}
			m.unmount(ctx)
			f.fsck(ctx, t, dev)
			noIOErrors(ctx, t, dev)
			n.varve(ctx, "snapshot", "delete", "disk@one")
			n.varve(ctx, "detach", "disk")
		})
	}
}

// TestSnapshotMountRefused: a failed snapshot mount leaves no device.
func TestSnapshotMountRefused(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	n.volume(ctx, "disk", "64M")
	n.snapshot(ctx, "disk@blank")
	dir := t.TempDir()
	n.refuse(ctx, []string{"disk@blank", "no ext4, xfs or btrfs"}, "snapshot", "mount", "disk@blank", dir)
	n.refuse(ctx, []string{"disk@none", "not found"}, "snapshot", "mount", "disk@none", dir)
	n.refuse(ctx, []string{"no such file"}, "snapshot", "mount", "disk@blank", dir+"/none")
	n.refuse(ctx, []string{dir, "nothing is mounted there"}, "snapshot", "umount", dir)
	n.refuse(ctx, []string{"not the device of a snapshot"}, "snapshot", "umount", "/proc")
	if list := n.snapshotDevices(ctx); len(list) > 0 {
		t.Errorf("devices of snapshots are left: %+v", list)
	}
	n.varve(ctx, "detach", "disk")
}

// TestSnapshotMountPartition mounts a partition of a snapshot. The whole device goes when it is
// unmounted.
func TestSnapshotMountPartition(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "64M")
	partition(t, dev)
	n.varve(ctx, "detach", "disk")
	dev = n.attach(ctx, "disk") // scans the partitions
	must(ctx, t, "mkfs.ext4", "-q", "-L", "second", dev+"p2")
	m := mount(ctx, t, dev+"p2", "")
	if err := os.WriteFile(filepath.Join(m.dir, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(ctx, t, "sync", "-f", m.dir)
	n.snapshot(ctx, "disk@one")

	dir := t.TempDir()
	n.refuse(ctx, []string{"disk@one", "partition table", "--partition"}, "snapshot", "mount", "disk@one", dir)
	n.refuse(ctx, []string{"no partition 3", "1, 2"}, "snapshot", "mount", "disk@one", dir, "--partition", "3")
	n.refuse(ctx, []string{"no ext4, xfs or btrfs"}, "snapshot", "mount", "disk@one", dir, "--partition", "1")
	n.refuse(ctx, []string{"need ublk"}, "snapshot", "mount", "disk@one", dir, "--partition", "2", "--transport", "loop")
	if list := n.snapshotDevices(ctx); len(list) > 0 {
		t.Errorf("devices of snapshots are left: %+v", list)
	}
	for _, unmount := range []func(){
		func() { n.varve(ctx, "snapshot", "umount", dir) },
		func() { unmount(ctx, t, dir) },
	} {
		s := query[struct {
			Device, Dir, Type string
			Partition         int
		}](ctx, n, "snapshot", "mount", "disk@one", dir, "--partition", "2")
		t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
		if s.Partition != 2 || s.Type != "ext4" || s.Dir != dir {
			t.Errorf("snapshot mount says %+v", s)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "file")); string(b) != "content" {
			t.Errorf("the file has %q, %v", b, err)
		}
		time.Sleep(3 * time.Second) // the daemon looks every second whether the device is still mounted
		if list := n.snapshotDevices(ctx); len(list) != 1 || list[0].MountedAt != dir {
			t.Errorf("while it is mounted, devices of snapshots are %+v", list)
		}
		unmount()
		n.wantNoScratch(ctx, s.Device)
	}
	m.unmount(ctx)
	n.varve(ctx, "detach", "disk")
}

// TestAttachSnapshot attaches a snapshot read-only, and with writes that are discarded.
func TestAttachSnapshot(t *testing.T) {
	for _, transport := range []string{"ublk", "loop"} {
		t.Run(transport, func(t *testing.T) {
			ctx := limit(t, 2*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx)
			dev := n.volume(ctx, "disk", "64M")
			must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=16", "oflag=direct", "status=none")
			want := sum(t, dev)
			n.varve(ctx, "snapshot", "create", "disk@one")
			must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=16", "oflag=direct", "status=none")
			now := sum(t, dev)

			ro := n.attach(ctx, "disk@one", "--transport", transport)
			if got := sum(t, ro); got != want {
				t.Error("the snapshot's device does not have the content of the time when the snapshot was taken")
			}
			if r := run(ctx, "dd", "if=/dev/zero", "of="+ro, "bs=4k", "count=1", "oflag=direct"); r.code == 0 {
				t.Error("the snapshot's device accepts writes without --writable")
			}
			rw := n.attach(ctx, "disk@one", "--transport", transport, "--writable")
			n.refuse(ctx, []string{"disk@one", ro, rw, "name one"}, "detach", "disk@one")
			n.varve(ctx, "detach", ro)
			must(ctx, t, "dd", "if=/dev/urandom", "of="+rw, "bs=1M", "count=4", "seek=8", "oflag=direct", "conv=notrunc", "status=none")
			written := sum(t, rw)
			if written == want {
				t.Error("the snapshot's writable device does not have what was written to it")
			}
			if transport == "ublk" { // a loop device does not outlive its daemon
				held, err := os.Open(rw)
				if err != nil {
					t.Fatal(err)
				}
				n.kill(ctx)
				n.serve(ctx)
				if got := sum(t, rw); got != written {
					t.Error("what was written to the snapshot's device was lost with the daemon")
				}
				_ = held.Close()
			}
			if got := sum(t, dev); got != now {
				t.Error("what was written to the snapshot's device is on the volume's")
			}
			n.varve(ctx, "detach", "disk@one")
			n.wantNoScratch(ctx, rw)
			again := n.attach(ctx, "disk@one", "--transport", transport)
			if got := sum(t, again); got != want {
				t.Error("what was written to a snapshot's device is in the snapshot")
			}

			// Killed while the device is not in use, and without the list of devices: nothing is
			// left.
			n.kill(ctx)
			if err := os.Remove(filepath.Join(n.store, "attached.json")); err != nil {
				t.Fatal(err)
			}
			n.serve(ctx)
			if transport == "ublk" {
				n.varve(ctx, "detach", "disk@one")
			}
			n.wantNoScratch(ctx, again)
			n.refuse(ctx, []string{"--writable"}, "attach", "disk", "--writable")
			n.varve(ctx, "snapshot", "delete", "disk@one")
			n.varve(ctx, "volume", "show", "disk")
		})
	}
}
