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
)

// dmsetup runs dmsetup without udev, for which it would wait.
func dmsetup(ctx context.Context, t *testing.T, table string, args ...string) {
	t.Helper()
	t.Setenv("DM_DISABLE_UDEV", "1")
	if table == "" {
		must(ctx, t, "dmsetup", args...)
		return
	}
	must(ctx, t, "sh", "-c", fmt.Sprintf("printf '%s' | dmsetup %s", table, strings.Join(args, " ")))
}

// TestStoreOnOwnDevice: the logical volume below the store grows onto a device of that store. From
// then on attach fails with an error that names the layers between the two.
func TestStoreOnOwnDevice(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	const sectors = 2 << 20 // 1 GiB
	disk := fmt.Sprintf(`0 %d linear /dev/ubda 0\n`, sectors)
	dmsetup(ctx, t, disk, "create", "varve-own")
	t.Cleanup(func() { run(context.Background(), "dmsetup", "remove", "--retry", "varve-own") })
	dm := "/dev/mapper/varve-own"
	must(ctx, t, "mkfs.ext4", "-q", "-F", "-E", "nodiscard", dm)
	m := mount(ctx, t, dm, "")
	n := newNodeAt(ctx, t, filepath.Join(m.dir, "store"))
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "64M")
	n.varve(ctx, "volume", "create", "other", "--size", "64M")
	reload := func(table string) {
		t.Helper()
		dmsetup(ctx, t, table, "reload", "varve-own")
		dmsetup(ctx, t, "", "suspend", "varve-own")
		dmsetup(ctx, t, "", "resume", "varve-own")
	}
	reload(disk + fmt.Sprintf(`%d 131072 linear %s 0\n`, sectors, dev))
	for _, transport := range []string{"ublk", "loop"} {
		n.refuse(ctx, []string{n.store, dev, "below /dev/dm-", `"disk"`, "wait for itself", "move the store"},
			"attach", "other", "--transport", transport)
	}
	n.refuse(ctx, []string{n.store, "in the store"}, "mount", filepath.Join(n.store, "segments"))
	bind := t.TempDir()
	must(ctx, t, "mount", "--bind", n.store, bind)
	n.refuse(ctx, []string{"in the store"}, "mount", filepath.Join(bind, "journal"))
	unmount(ctx, t, bind)
	reload(disk)
	n.attach(ctx, "other")
	n.varve(ctx, "detach", "other")
	n.varve(ctx, "detach", "disk")
	n.stop(ctx)
	m.unmount(ctx)
}

// TestStoreOnDeviceWithoutServer: a second store is on a volume of the first. While the first has
// no daemon, commands on the second fail at once instead of waiting forever; when it has one, both
// work.
func TestStoreOnDeviceWithoutServer(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	lower := newNode(ctx, t)
	lower.serve(ctx)
	dev := lower.volume(ctx, "disk", "1G")
	fsNamed("ext4").make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	upper := newNodeAt(ctx, t, filepath.Join(m.dir, "store"))
	upper.varve(ctx, "volume", "create", "inner", "--size", "64M")
	must(ctx, t, "sync")
	lower.kill(ctx)
	for _, args := range [][]string{{"serve"}, {"volume", "list"}} {
		began := time.Now()
		upper.refuse(ctx, []string{upper.store, dev, "waits for its server"}, args...)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("varve %s took %v to refuse", args[0], took)
		}
	}
	lower.serve(ctx)
	upper.serve(ctx)
	inner := upper.attach(ctx, "inner")
	data := make([]byte, 4<<20)
	copy(data, "a store on a store")
	writeDirect(t, inner, data)
	wantBytes(t, inner, data, -1)
	upper.varve(ctx, "detach", "inner")
	upper.stop(ctx)
	m.unmount(ctx)
	lower.varve(ctx, "detach", "disk")
	if _, err := os.Stat(dev); err == nil {
		t.Errorf("%s is still there", dev)
	}
	lower.stop(ctx)
}
