//go:build integration

package integration

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestDedupTwoCopies copies the same files to two volumes, and compares the figures of `varve stat`
// with du's for the store's files. Two copies of a tree of small files take the space of one if
// chunks are as large as the filesystem's blocks. With chunks of 16 KiB that is true only for large
// files: ext4 places small files wherever there is room, so chunks also contain parts of other
// files.
func TestDedupTwoCopies(t *testing.T) {
	for _, c := range []struct {
		name, chunk string
		large       bool    // one large file instead of the tree
		most        float64 // stored bytes after two copies, as a multiple of those after one
	}{
		{"tree in 4K chunks", "4096", false, 1.1},
		{"large file in 16K chunks", "16384", true, 1.1},
		{"tree in 16K chunks", "16384", false, 1.8},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := limit(t, 4*time.Minute)
			n := newNode(ctx, t, "--chunk-size", c.chunk)
			n.serve(ctx)
			what := sourceTree(t)
			if c.large {
				what = filepath.Join(t.TempDir(), "tree.tar")
				must(ctx, t, "tar", "-C", sourceTree(t), "-cf", what, ".")
			}
			one, duOne := copyAndMeasure(ctx, t, n, "one", what)
			two, duTwo := copyAndMeasure(ctx, t, n, "two", what)
			if two.Logical < one.Logical*19/10 {
				t.Errorf("logical bytes %d after one copy, %d after two: not twice", one.Logical, two.Logical)
			}
			grown := float64(two.Stored) / float64(one.Stored)
			t.Logf("stored bytes grew to %.2f times, du to %.2f times", grown, float64(duTwo)/float64(duOne))
			if grown > c.most {
				t.Errorf("stored bytes %d after one copy, %d after two: the second is not shared", one.Stored, two.Stored)
			}
			if want := float64(two.Logical) / float64(two.Stored); two.DedupRatio < want*0.95 || two.DedupRatio > want*1.05 {
				t.Errorf("dedup ratio %.2f, logical by stored bytes are %.2f", two.DedupRatio, want)
			}
			for _, s := range []struct{ used, du int64 }{{one.Used, duOne}, {two.Used, duTwo}} {
				// Between the two the index may write a table of 16 MiB out, and drop the log of
				// it.
				const table = 20 << 20
				if s.used < s.du*9/10-table || s.used > s.du*11/10+table {
					t.Errorf("stat says %d bytes are used, du says %d", s.used, s.du)
				}
			}
		})
	}
}

// copyAndMeasure creates a volume with ext4, copies the files to it, and returns the figures of
// stat and du after it has settled.
func copyAndMeasure(ctx context.Context, t *testing.T, n *node, name, what string) (stat, int64) {
	t.Helper()
	dev := n.volume(ctx, name, "2G")
	fsNamed("ext4").make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	must(ctx, t, "cp", "-a", what, m.dir)
	m.unmount(ctx)
	n.snapshot(ctx, name+"@copied")
	s := query[stat](ctx, n, "stat")
	du, err := strconv.ParseInt(strings.Fields(must(ctx, t, "du", "-s", "--block-size=1", n.store))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("after volume %s: logical %d MiB, stored %d MiB, metadata %.1f MiB, used %d MiB, ratio %.2f; du %d MiB", name,
		s.Logical>>20, s.Stored>>20, float64(s.Metadata)/(1<<20), s.Used>>20, s.DedupRatio, du>>20)
	return s, du
}
