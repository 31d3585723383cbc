//go:build integration

package integration

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestTwoCopiesTakeTheSpaceOfOne copies the same tree onto two volumes and holds the figures of `varve stat`
// against what du says of the store's files.
func TestTwoCopiesTakeTheSpaceOfOne(t *testing.T) {
	for _, chunk := range []string{"4096", "16384"} {
		t.Run("chunk="+chunk, func(t *testing.T) {
			ctx := limit(t, 4*time.Minute)
			n := newNode(ctx, t, "--chunk-size", chunk)
			n.serve(ctx)
			tree := sourceTree(t)
			var after [2]stat
			var disk [2]int64
			for i, name := range []string{"one", "two"} {
				dev := n.volume(ctx, name, "2G")
				fsNamed("ext4").make(ctx, t, dev)
				m := mount(ctx, t, dev, "")
				must(ctx, t, "cp", "-a", tree, m.dir)
				m.unmount(ctx)
				n.snapshot(ctx, name+"@copied")
				after[i] = query[stat](ctx, n, "stat")
				du := must(ctx, t, "du", "-s", "--block-size=1", filepath.Clean(n.store))
				bytes, err := strconv.ParseInt(strings.Fields(du)[0], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				disk[i] = bytes
				t.Logf("after volume %s: logical %d MiB, stored %d MiB, metadata %.1f MiB, used %d MiB, ratio %.2f; du %d MiB", name,
					after[i].Logical>>20, after[i].Stored>>20, float64(after[i].Metadata)/(1<<20), after[i].Used>>20,
					after[i].DedupRatio, disk[i]>>20)
			}
			one, two := after[0], after[1]
			if two.Logical < one.Logical*19/10 {
				t.Errorf("logical bytes %d after one copy, %d after two: not twice", one.Logical, two.Logical)
			}
			// Not 1.0 times: where a chunk holds ext4's own blocks beside a file's, timestamps make it unique.
			if two.Stored > one.Stored*115/100 {
				t.Errorf("stored bytes %d after one copy, %d after two: the second is not shared", one.Stored, two.Stored)
			}
			if two.DedupRatio < 1.7 {
				t.Errorf("dedup ratio %.2f, want about 2", two.DedupRatio)
			}
			for i, s := range after {
				if s.Used < disk[i]*9/10 || s.Used > disk[i]*11/10 {
					t.Errorf("stat says %d bytes are used, du says %d", s.Used, disk[i])
				}
			}
		})
	}
}
