//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// earlier is a varve from before stores had features.
type earlier struct {
	program string
	words   []string // with which it refuses a store that has some
}

// earlierVarves returns the earlier version, if the repository has it in its history, and this one
// made to know no feature.
func earlierVarves(t *testing.T) []earlier {
	t.Helper()
	program, simulated := os.Getenv("VARVE_BIN_EARLIER"), os.Getenv("VARVE_BIN_NOFEATURES")
	if program == "" || simulated == "" {
		t.Fatal("VARVE_BIN_EARLIER or VARVE_BIN_NOFEATURES is not set: an earlier varve, and one that is built with -tags nofeatures")
	}
	list := []earlier{{simulated, []string{"unsupported format version", "feature 2 (resize)", "newer varve"}}}
	switch commit, err := os.ReadFile(program + ".commit"); {
	case os.IsNotExist(err):
		t.Log("the repository lacks its history, or that does not build here: the earlier version is simulated")
	case err != nil:
		t.Fatal(err)
	default:
		t.Logf("the earlier version is that of commit %s", commit)
		words := []string{"unsupported format version", "version 2, this varve reads version 1"}
		list = slices.Insert(list, 0, earlier{program, words})
	}
	return list
}

// TestUpgradeAcrossFeatures upgrades a daemon under a mounted ext4 from a varve that knows no feature,
// back to it, and forth again, as long as the store uses none. Once a volume was resized, that varve
// is refused in words that say why, and the daemon that serves goes on.
func TestUpgradeAcrossFeatures(t *testing.T) {
	olds := earlierVarves(t)
	before := olds[0].program
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
	for _, old := range olds {
		n.program = old.program
		n.refuse(ctx, old.words, "upgrade")
	}
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
