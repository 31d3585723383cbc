//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReadOnlyFileSystem reads a store on a read-only file system, such as a mounted backup: stat,
// lists, check, and a mount whose files have their content. Commands that need to write fail with
// an error that says so.
func TestReadOnlyFileSystem(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "64M")
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=8", "oflag=direct", "conv=notrunc", "status=none")
	n.snapshot(ctx, "disk@settled")
	want := sum(t, dev)
	must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "seek=4", "count=8", "oflag=direct", "conv=notrunc,fsync", "status=none")
	live := sum(t, dev)
	n.varve(ctx, "detach", "disk")
	n.kill(ctx) // what is in the journal has to be recovered to be seen

	ro := filepath.Join(t.TempDir(), "ro")
	if err := os.Mkdir(ro, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(n.store, ro, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(ro, unix.MNT_DETACH) }()
	if err := unix.Mount("", ro, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	writable := n.store
	n.store = ro
	if st := query[struct {
		ReadOnly string `json:"read_only"`
	}](ctx, n, "stat"); st.ReadOnly == "" {
		t.Error("stat does not say that the store can't be written")
	}
	if list := query[[]struct{ Name string }](ctx, n, "volume", "list"); len(list) != 1 {
		t.Errorf("volumes %+v, want one", list)
	}
	n.varve(ctx, "check")
	n.refuse(ctx, []string{"read-only file system"}, "volume", "create", "more", "--size", "1M")
	n.refuse(ctx, []string{"read-only file system"}, "serve")

	dir := filepath.Join(t.TempDir(), "mount")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	n.varve(ctx, "mount", dir)
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	if got := sum(t, filepath.Join(dir, "snapshots/disk/settled/disk.img")); got != want {
		t.Error("the snapshot reads otherwise on the read-only file system")
	}
	if got := sum(t, filepath.Join(dir, "volumes/disk/live")); got != live {
		t.Error("the volume reads otherwise on the read-only file system")
	}
	f, err := os.OpenFile(filepath.Join(dir, "volumes/disk/live"), os.O_RDWR, 0)
	if err == nil {
		if _, err = f.WriteAt(make([]byte, 4096), 0); err == nil {
			err = f.Sync()
		}
		_ = f.Close()
	}
	if err == nil {
		t.Error("a write to a read-only store was taken")
	}
	n.varve(ctx, "umount", dir)
	n.store = writable
	n.serve(ctx)
	if got := sum(t, n.attachAgain(ctx, "disk")); got != live {
		t.Error("the volume has changed by being looked at")
	}
	n.varve(ctx, "detach", "disk")
}
