//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// usedOn returns the bytes that are used on the filesystem of a directory, as the filesystem says.
func usedOn(t *testing.T, dir string) int64 {
	t.Helper()
	fd, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	if err := unix.Syncfs(int(fd.Fd())); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// TestUsesAddUp has a store with duplicates, overwritten data, snapshots, a clone, past states, a
// tail, and deleted snapshots, on each filesystem that a store may lie on. The parts that stat names
// add up to what the filesystem says that the store has taken, past states have what was overwritten
// in a volume that keeps them, and what a deletion was said to free is dead afterwards, within 1 %
// each.
func TestUsesAddUp(t *testing.T) {
	for _, below := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(below, func(t *testing.T) { usesAddUp(t, below) })
	}
}

func usesAddUp(t *testing.T, below string) {
	ctx := limit(t, 5*time.Minute)
	dir := t.TempDir()
	if below == "tmpfs" {
		must(ctx, t, "mount", "-t", "tmpfs", "-o", "size=900M", "tmpfs", dir)
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	} else {
		dir = newSmallDisk(ctx, t, fsNamed(below), 900).m.dir
	}
	empty := usedOn(t, dir)
	n := newNodeAt(ctx, t, filepath.Join(dir, "store"))
	n.serve(ctx)
	dev := n.volume(ctx, "data", "1G")
	writeTo := func(dev string, at, mib int) {
		t.Helper()
		if r := random(ctx, dev, at, mib, "oflag=direct"); r.code != 0 {
			t.Fatal(r.stderr)
		}
	}
	write := func(at, mib int) { t.Helper(); writeTo(dev, at, mib) }
	write(0, 120)
	must(ctx, t, "dd", "if="+dev, "of="+dev, "bs=1M", "count=40", "seek=200", "iflag=direct", "oflag=direct", "status=none", "conv=notrunc") // duplicates
	n.snapshot(ctx, "data@one")
	write(20, 60)
	n.snapshot(ctx, "data@two")
	write(50, 40)
	n.snapshot(ctx, "data@three")
	n.varve(ctx, "volume", "clone", "data@one", "copy")
	n.varve(ctx, "volume", "delete", "copy")
	past := n.volume(ctx, "past", "64M")
	n.varve(ctx, "volume", "set", "past", "--keep-last", "100")
	for range 2 {
		writeTo(past, 0, 20)
		n.snapshot(ctx, "past@settled")
		n.varve(ctx, "snapshot", "delete", "past@settled")
	}
	n.postponeCollection(ctx)
	before := n.uses(ctx, dir, empty)
	if before.History == nil || !within(*before.History, 20<<20, 20<<20/100) {
		t.Errorf("past states have what %+v says, want about the 20 MiB that were overwritten", before)
	}
	if part := float64(before.Dead) / float64(before.Data); part > 0.02 {
		t.Errorf("%d bytes are dead where nothing was deleted: %.1f %% of the data", before.Dead, part*100)
	}
	freed := query[objstore.Freed](ctx, n, "snapshot", "delete", "--dry-run", "data@one", "data@two")
	if want := int64(60 << 20); freed.Data < want {
		t.Errorf("deleting two snapshots would free %+v, want at least %d bytes of data", freed, want)
	}
	n.varve(ctx, "snapshot", "delete", "data@one", "data@two")
	after := n.uses(ctx, dir, empty)
	if got := after.Dead - before.Dead; !within(got, freed.Total, freed.Total/100) {
		t.Errorf("%d bytes more are dead after deleting what was said to free %d", got, freed.Total)
	}
	write(300, 50) // a tail, or settled by now
	n.uses(ctx, dir, empty)
	n.stop(ctx, "--detach")
}

func within(got, want, tolerance int64) bool { return got >= want-tolerance && got <= want+tolerance }

// uses returns what stat says the store's bytes are for, once it agrees with the filesystem on
// their sum.
func (n *node) uses(ctx context.Context, dir string, empty int64) objstore.Uses {
	n.t.Helper()
	var u objstore.Uses
	last := ""
	for range 40 {
		s := query[objstore.Stat](ctx, n, "stat")
		if s.Uses == nil {
			last = "nothing is counted"
			continue
		}
		u = *s.Uses
		sum := u.Total()
		used := usedOn(n.t, dir) - empty
		if within(sum, s.Used, s.Used/100) && within(sum, used, used/100) {
			n.t.Logf("%d MiB of %d MiB that the filesystem says: %+v", sum>>20, used>>20, u)
			return u
		}
		last = fmt.Sprintf("the parts %+v add up to %d bytes; the store uses %d, and the filesystem says %d", u, sum, s.Used, used)
		time.Sleep(500 * time.Millisecond)
	}
	n.t.Fatal(last)
	return u
}
