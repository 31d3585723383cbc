package objstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/internal/refs"
)

// logSize is how long the refs log is, in bytes.
func logSize(t *testing.T, r *rig) int64 {
	t.Helper()
	f, err := r.mem.Open(refs.LogFile)
	must(t, err)
	defer f.Close()
	n, err := f.Size()
	must(t, err)
	return n
}

// recordSnapshots gives volume a n settled snapshots by way of the log, a hundred in a record.
func recordSnapshots(t *testing.T, r *rig, from, n int) {
	t.Helper()
	v, err := r.s.catalog.volume("a")
	must(t, err)
	for i := from; i < from+n; i += 100 {
		recs := make([]refs.Record, 100)
		for j := range recs {
			root := merkle.Sum(merkle.KindRoot, fmt.Append(nil, i+j))
			recs[j] = refs.Record{Op: refs.OpSnapshot, ID: v.ref.ID, Name: fmt.Sprintf("auto-%08d", i+j), Root: root.String(), Logical: 1}
		}
		must(t, r.s.catalog.append(context.Background(), append([]refs.Record{{Op: refs.OpVerify, ID: v.ref.ID}}, recs...)...))
	}
}

func dropSnapshots(t *testing.T, r *rig, from, n int) {
	t.Helper()
	v, err := r.s.catalog.volume("a")
	must(t, err)
	for i := from; i < from+n; i += 100 {
		recs := make([]refs.Record, 100)
		for j := range recs {
			recs[j] = refs.Record{Op: refs.OpSnapshotDelete, ID: v.ref.ID, Name: fmt.Sprintf("auto-%08d", i+j)}
		}
		must(t, r.s.catalog.append(context.Background(), recs...))
	}
}

func snapshotCount(t *testing.T, r *rig, want int) {
	t.Helper()
	list, err := r.s.Snapshots("a")
	must(t, err)
	if len(list) != want {
		t.Fatalf("%d snapshots, want %d", len(list), want)
	}
}

// A log is compacted however much it says: in frames, none of which is large.
func TestCompactionOfManyNames(t *testing.T) {
	r := newRig(t, Options{})
	must(t, r.volume("a", 1<<20).Close())
	const live = 4000
	recordSnapshots(t, r, 0, live)
	for range 8 {
		recordSnapshots(t, r, live, live)
		dropSnapshots(t, r, live, live)
	}
	frames, largest := 0, 0
	snapshotCount(t, r, live)
	must(t, r.s.Close())
	l, err := record.Open(r.mem, refs.LogFiles, refs.LogID(r.s.sb.ID), false, func(p []byte) error {
		frames++
		largest = max(largest, len(p))
		return nil
	})
	must(t, err)
	must(t, l.Close())
	one := int64(260) * live
	if n := logSize(t, r); n > 1<<20+12*one {
		t.Errorf("the log has %d bytes for %d snapshots", n, live)
	}
	if largest > 1<<20 {
		t.Errorf("of %d frames the largest has %d bytes", frames, largest)
	}
	r.open(nil)
	snapshotCount(t, r, live)
}

// Before the log is as long as it may be, it takes no more names, and says what to do; deleting and
// settling go on.
func TestRefsThatAreFull(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	const full = 3 << 20
	r.s.catalog.log.Full = full
	made := 0
	for ; r.s.catalog.log.Size() < full-64<<10; made += 100 {
		recordSnapshots(t, r, made, 100)
	}
	var err error
	for i := 0; i < 1000 && err == nil; i++ {
		_, err = r.s.CreateSnapshot(ctx, "a", fmt.Sprintf("s%d-%s", i, strings.Repeat("x", 100)))
	}
	if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "delete snapshots") {
		t.Fatalf("%v", err)
	}
	if _, err := r.s.CreateVolume(ctx, strings.Repeat("v", 100), VolumeOptions{Size: 1 << 20}); err == nil {
		t.Error("a volume was made")
	}
	r.write(v, randomBytes(1, 8192), 0)
	must(t, v.Flush())
	must(t, r.s.Settle(ctx))
	dropSnapshots(t, r, 0, made-made/4/100*100)
	if n := logSize(t, r); n > full-full/8 {
		t.Errorf("the log has %d bytes after most of it was deleted", n)
	}
	_, err = r.s.CreateSnapshot(ctx, "a", "again")
	must(t, err)
	must(t, v.Close())
}
