//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestUpgradeAcrossFeatures upgrades a daemon under a mounted ext4 from a varve that knows no feature,
// back to it, and forth again, as long as the store uses none. Once a volume was resized, that varve
// is refused with the name of what it lacks, and the daemon that serves goes on.
func TestUpgradeAcrossFeatures(t *testing.T) {
	before := os.Getenv("VARVE_BIN_NOFEATURES")
	if before == "" {
		t.Fatal("VARVE_BIN_NOFEATURES is not set: a varve that is built with -tags nofeatures")
	}
	ctx := limit(t, 3*time.Minute)
	n := newNode(ctx, t)
	now := n.program
	upgrade := func(program string) {
		t.Helper()
		n.program = program
		n.varve(ctx, "upgrade")
		n.program = now
	}
	n.program = before
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "200M")
	ext4 := fsNamed("ext4")
	ext4.make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	write := func(name string) string {
		t.Helper()
		must(ctx, t, "dd", "if=/dev/urandom", "of="+filepath.Join(m.dir, name), "bs=1M", "count=16", "conv=fsync", "status=none")
		return sum(t, filepath.Join(m.dir, name))
	}
	sums := map[string]string{"first": write("first")}
	upgrade(now)
	n.snapshot(ctx, "disk@forth")
	sums["forth"] = write("forth")
	upgrade(before)
	sums["back"] = write("back")
	upgrade(now)
	n.varve(ctx, "volume", "resize", "disk", "300M")
	must(ctx, t, "resize2fs", dev)
	n.program = before
	n.refuse(ctx, []string{"unsupported format version", "feature 2 (resize)", "newer varve"}, "upgrade")
	n.program = now
	sums["refused"] = write("refused")
	upgrade(now)
	for name, want := range sums {
		if sum(t, filepath.Join(m.dir, name)) != want {
			t.Errorf("%s has other bytes than were written", name)
		}
	}
	m.unmount(ctx)
	ext4.fsck(ctx, t, dev)
}
