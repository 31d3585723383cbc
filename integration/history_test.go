//go:build integration

package integration

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"varve/objstore"
)

// TestHistoryOnDevice writes to a device whose volume has a policy: states come into being, stay when
// the daemon is killed, are read in the mount, and one is rolled back to.
func TestHistoryOnDevice(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "64M")
	n.varve(ctx, "volume", "set", "disk", "--keep-last", "8", "--snapshot-every", "1m")
	states := func() []objstore.SnapshotInfo {
		t.Helper()
		return query[[]objstore.SnapshotInfo](ctx, n, "volume", "history", "disk")
	}
	var sums []string
	for i := range 3 {
		must(ctx, t, "sh", "-c", fmt.Sprintf("yes %d | dd of=%s bs=64k count=4 oflag=direct iflag=fullblock status=none", i, dev))
		n.varve(ctx, "snapshot", "create", fmt.Sprintf("disk@s%d", i), "--wait")
		sums = append(sums, sum(t, dev))
		if list := states(); len(list) < i+1 {
			t.Fatalf("states %+v after %d settlings", list, i+1)
		}
	}
	list := states()
	root, err := hex.DecodeString(list[len(list)-1].Root)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the states are in their file, which is written behind", func() bool {
		b, err := os.ReadFile(filepath.Join(n.store, "refs/history"))
		return err == nil && bytes.Contains(b, root)
	})
	automatic := func(s objstore.SnapshotInfo) bool { return s.Automatic }
	eventually(t, time.Minute, "the daemon makes an automatic snapshot", func() bool {
		return slices.ContainsFunc(query[[]objstore.SnapshotInfo](ctx, n, "snapshot", "list", "disk"), automatic)
	})
	n.kill(ctx)
	n.serve(ctx)
	if again := states(); len(again) < len(list) || again[len(list)-1].Root != list[len(list)-1].Root {
		t.Errorf("states %+v after a kill, before %+v", again, list)
	}
	dir := n.fuse(ctx)
	at := -1
	for i, st := range list {
		if sum(t, filepath.Join(dir, "history", "disk", st.Name, "disk.img")) == sums[0] {
			at = i
		}
	}
	if at < 0 {
		t.Fatalf("no state holds what was written first: %+v", list)
	}
	n.varve(ctx, "umount", dir)
	n.varve(ctx, "detach", "disk")
	n.varve(ctx, "volume", "rollback", "disk@"+list[at].Name)
	dev = n.attach(ctx, "disk")
	if got := sum(t, dev); got != sums[0] {
		t.Error("the device holds something else after the rollback to a state")
	}
	n.varve(ctx, "detach", "disk")
	if snaps := query[[]objstore.SnapshotInfo](ctx, n, "snapshot", "list", "disk"); !slices.ContainsFunc(snaps, automatic) {
		t.Errorf("the automatic snapshot is gone: %+v", snaps)
	}
}
