//go:build integration

package integration

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestCloneOfMountedFilesystem clones a volume while its filesystem is in use: the clone has what a
// power cut would leave, and is mounted beside its origin. The daemon is killed under both, and the
// origin is deleted under the clone.
func TestCloneOfMountedFilesystem(t *testing.T) {
	for _, f := range filesystems[:2] {
		t.Run(f.name, func(t *testing.T) {
			ctx := limit(t, 4*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx)
			dev := n.volume(ctx, "origin", "512M")
			f.make(ctx, t, dev)
			m := mount(ctx, t, dev, "")
			net := filepath.Join(sourceTree(t), "net")
			must(ctx, t, "cp", "-a", net, filepath.Join(m.dir, "net"))
			must(ctx, t, "sync", "-f", m.dir)
			n.varve(ctx, "volume", "clone", "origin", "copy")
			must(ctx, t, "rm", "-rf", filepath.Join(m.dir, "net"))
			copied := n.attach(ctx, "copy")
			c := mount(ctx, t, copied, f.copied)
			must(ctx, t, "diff", "-r", net, filepath.Join(c.dir, "net"))
			must(ctx, t, "cp", "-a", net, filepath.Join(c.dir, "more"))
			must(ctx, t, "sync", "-f", c.dir)
			n.kill(ctx)
			n.serve(ctx)
			must(ctx, t, "diff", "-r", net, filepath.Join(c.dir, "more"))
			if _, err := os.Stat(filepath.Join(m.dir, "net")); !os.IsNotExist(err) {
				t.Errorf("the origin has what was removed after it was cloned: %v", err)
			}
			m.unmount(ctx)
			n.varve(ctx, "detach", "origin")
			n.varve(ctx, "volume", "delete", "origin")
			dropCaches(t)
			must(ctx, t, "diff", "-r", net, filepath.Join(c.dir, "net"))
			c.unmount(ctx)
			f.fsck(ctx, t, copied)
			n.varve(ctx, "detach", "copy")
			n.varve(ctx, "volume", "delete", "copy")
		})
	}
}

// TestHundredClones clones a snapshot a hundred times and attaches all clones, at once: none fails,
// and each has the snapshot's content.
func TestHundredClones(t *testing.T) {
	ctx := limit(t, 6*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "golden", "64M")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=4", "oflag=direct", "status=none")
	n.snapshot(ctx, "golden@release")
	want := readDirect(t, dev, 4<<20)
	const clones = 100
	took := make([]time.Duration, clones)
	var wg sync.WaitGroup
	places := make(chan struct{}, 32)
	for i := range clones {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			name := fmt.Sprintf("vm-%d", i)
			began := time.Now()
			for _, args := range [][]string{{"volume", "clone", "golden@release", name}, {"attach", name, "--queues", "1", "--depth", "8"}} {
				if r := n.try(ctx, args...); r.code != 0 {
					t.Errorf("varve %s: status %d: %s", strings.Join(args, " "), r.code, r.stderr)
					return
				}
			}
			took[i] = time.Since(began)
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	slices.Sort(took)
	t.Logf("clone and attach: p50 %v, p99 %v, longest %v", took[clones/2], took[clones*99/100-1], took[clones-1])
	list := query[[]struct {
		Name     string
		Attached []struct{ Device string }
	}](ctx, n, "volume", "list")
	for i, v := range list {
		if v.Name == "golden" {
			continue
		}
		if len(v.Attached) != 1 {
			t.Fatalf("%s is attached %d times", v.Name, len(v.Attached))
		}
		if i%10 == 0 && !bytes.Equal(readDirect(t, v.Attached[0].Device, 4<<20), want) {
			t.Errorf("%s has other content than the snapshot", v.Name)
		}
	}
	for i := range clones {
		n.varve(ctx, "detach", fmt.Sprintf("vm-%d", i))
		n.varve(ctx, "volume", "delete", fmt.Sprintf("vm-%d", i))
	}
}

// readDirect reads the first bytes of a device, without the page cache.
func readDirect(t *testing.T, dev string, n int) []byte {
	t.Helper()
	f := openDirect(t, dev, os.O_RDONLY)
	defer f.Close() // a device that is open is not detached
	b := aligned(t, n)
	if _, err := io.ReadFull(f, b); err != nil {
		t.Fatalf("read %s: %v", dev, err)
	}
	return b
}

// wantEverywhere fails unless a device has the content, read through the page cache and past it,
// and so has the volume's live file in a mount.
func wantEverywhere(t *testing.T, dev, live string, want []byte) {
	t.Helper()
	for name, got := range map[string][]byte{
		"the device, past the page cache": readDirect(t, dev, len(want)), "the device": readBuffered(t, dev, len(want)),
		"the live file": readBuffered(t, live, len(want)), "a mapping of the live file": readMapped(t, live, len(want)),
	} {
		if !bytes.Equal(got, want) {
			t.Errorf("%s shows other content", name)
		}
	}
}

func readBuffered(t *testing.T, path string, n int) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return b
}

func readMapped(t *testing.T, path string, n int) []byte {
	t.Helper()
	m, unmap := mapLive(t, path, n)
	defer unmap()
	return bytes.Clone(m)
}

// TestRollbackShowsNothingOld rolls a volume back whose old content is in the page caches of its
// device and of its live file, which was mapped. It is refused as long as either is open, with who
// has it, and while the device waits for a daemon.
func TestRollbackShowsNothingOld(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	const size = 8 << 20
	dev := n.volume(ctx, "disk", "64M")
	dir := n.fuse(ctx)
	live := filepath.Join(dir, "volumes", "disk", "live")
	write := func() []byte {
		must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=8", "conv=fsync", "status=none")
		return readDirect(t, dev, size)
	}
	first := write()
	n.varve(ctx, "snapshot", "create", "disk@first") // settles when the rollback needs it
	second := write()
	wantEverywhere(t, dev, live, second) // the caches have it now

	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	n.refuse(ctx, []string{"in use", dev, fmt.Sprint(os.Getpid())}, "volume", "rollback", "disk@first")
	n.kill(ctx)
	n.refuse(ctx, []string{"in use", dev}, "volume", "rollback", "disk@first") // without a daemon
	n.serve(ctx)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	n.varve(ctx, "detach", "disk")
	f, err = os.Open(live)
	if err != nil {
		t.Fatal(err)
	}
	n.refuse(ctx, []string{"in use", "fuse", fmt.Sprint(os.Getpid())}, "volume", "rollback", "disk@first")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	kept := strings.TrimSpace(n.varve(ctx, "volume", "rollback", "disk@first"))
	dev = n.attach(ctx, "disk")
	wantEverywhere(t, dev, live, first)
	if _, snap, ok := strings.Cut(kept, "@"); !ok || !bytes.Equal(readBuffered(t, image(dir, "disk", snap), size), second) {
		t.Errorf("the snapshot %q does not have the state before", kept)
	}
	third := write()
	wantEverywhere(t, dev, live, third)
	n.varve(ctx, "detach", "disk")
	n.varve(ctx, "volume", "rollback", kept, "--no-snapshot")
	n.kill(ctx)
	n.serve(ctx)
	dev = n.attach(ctx, "disk")
	wantEverywhere(t, dev, live, second)
	if !bytes.Equal(readBuffered(t, image(dir, "disk", "first"), size), first) {
		t.Error("the snapshot has changed")
	}
	n.varve(ctx, "umount", dir)
	n.varve(ctx, "detach", "disk")
}

// TestRollbackOfFilesystem rolls a filesystem back that was mounted: it is the old one, and clean.
func TestRollbackOfFilesystem(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	f := fsNamed("ext4")
	dev := n.volume(ctx, "disk", "256M")
	f.make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	net := filepath.Join(sourceTree(t), "net")
	must(ctx, t, "cp", "-a", net, filepath.Join(m.dir, "net"))
	m.unmount(ctx)
	n.varve(ctx, "snapshot", "create", "disk@good")
	m = mount(ctx, t, dev, "")
	must(ctx, t, "rm", "-rf", filepath.Join(m.dir, "net"))
	m.unmount(ctx)
	n.varve(ctx, "detach", "disk")
	n.varve(ctx, "volume", "rollback", "disk@good", "--no-snapshot")
	dev = n.attach(ctx, "disk")
	f.fsck(ctx, t, dev)
	m = mount(ctx, t, dev, "")
	must(ctx, t, "diff", "-r", net, filepath.Join(m.dir, "net"))
	m.unmount(ctx)
	n.varve(ctx, "detach", "disk")
}

// TestRenameUnderMountedFilesystem renames a volume under a mounted filesystem, and gives its old
// name to another one, which is attached too. Both go on through a killed daemon, one whose list of
// devices is lost, an upgrade, and a restart; each device shows its own volume.
func TestRenameUnderMountedFilesystem(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "data", "256M")
	f := fsNamed("ext4")
	f.make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	net := filepath.Join(sourceTree(t), "net")
	must(ctx, t, "cp", "-a", net, filepath.Join(m.dir, "net"))
	n.varve(ctx, "snapshot", "create", "data@one")
	n.varve(ctx, "volume", "rename", "data", "archive")
	n.varve(ctx, "snapshot", "rename", "archive@one", "two")
	other := n.volume(ctx, "data", "64M")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+other, "bs=1M", "count=2", "oflag=direct", "status=none")
	content := readDirect(t, other, 2<<20)
	step := 0
	check := func(when string) {
		t.Helper()
		got := map[string]string{}
		for _, v := range query[[]struct {
			Name     string
			Attached []struct{ Device, State string }
		}](ctx, n, "volume", "list") {
			for _, a := range v.Attached {
				got[v.Name] += a.Device + " " + a.State
			}
		}
		if len(got) != 2 || got["archive"] != dev+" served" || got["data"] != other+" served" {
			t.Fatalf("%s: the devices are %v", when, got)
		}
		step++
		must(ctx, t, "cp", "-a", net, filepath.Join(m.dir, fmt.Sprint("step", step)))
		must(ctx, t, "sync", "-f", m.dir)
		if !bytes.Equal(readDirect(t, other, len(content)), content) {
			t.Fatalf("%s: %s shows other content", when, other)
		}
		if r := run(ctx, "cmp", "-s", dev, other); r.code == 0 {
			t.Fatalf("%s: both devices show the same", when)
		}
	}
	check("renamed")
	n.refuse(ctx, []string{"exists"}, "volume", "rename", "archive", "data")
	n.refuse(ctx, []string{"in use", dev}, "volume", "rollback", "archive@two")
	n.kill(ctx)
	n.serve(ctx)
	check("the daemon was killed")
	n.kill(ctx)
	if err := os.Remove(filepath.Join(n.store, "attached.json")); err != nil {
		t.Fatal(err)
	}
	n.serve(ctx)
	check("the list of devices was lost")
	n.kill(ctx)
	n.varve(ctx, "volume", "rename", "archive", "between") // without a daemon
	n.varve(ctx, "volume", "rename", "data", "archive")
	n.varve(ctx, "volume", "rename", "between", "data")
	n.serve(ctx)
	n.varve(ctx, "volume", "rename", "data", "between")
	n.varve(ctx, "volume", "rename", "archive", "data")
	n.varve(ctx, "volume", "rename", "between", "archive")
	check("the names changed places, and back")
	m.unmount(ctx)
	f.fsck(ctx, t, dev)
	n.stop(ctx)
	n.varve(ctx, "volume", "rename", "archive", "kept") // what the next daemon attaches again
	n.serve(ctx)
	for _, v := range query[[]struct {
		Name     string
		Attached []struct{ Device string }
	}](ctx, n, "volume", "list") {
		if len(v.Attached) != 1 {
			t.Errorf("after a restart %s is attached %d times", v.Name, len(v.Attached))
		}
	}
	n.varve(ctx, "detach", "kept")
	n.varve(ctx, "detach", "data")
}
