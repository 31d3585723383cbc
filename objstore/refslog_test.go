package objstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// A power cut while refs get their second file, or are compacted, is no damage.
func TestRefsCopyCut(t *testing.T) {
	for what, compact := range map[string]bool{"copied": false, "compacted": true} {
		for n, done := int64(0), false; !done; n++ {
			for disk := range uint64(4) {
				r := newRig(t, Options{})
				must(t, r.volume("a", 1<<20).Close())
				if compact {
					r.longRefs()
				} else {
					must(t, r.s.Close())
					must(t, r.mem.Remove(refs.LogCopy)) // a store from before there was one
				}
				must(t, r.mem.SyncDir("refs"))
				r.mem = r.mem.Kill()
				r.mem.CutAt(n)
				err := r.reopened(r.mem, "boot")
				done = err == nil && !r.mem.WasCut()
				if done {
					break
				}
				if err := r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(disk, uint64(n)))), "next boot"); err != nil {
					t.Fatalf("%s, cut at %d: %v", what, n, err)
				}
				r.undamaged(what)
				must(t, r.volume("a", 1<<20).Close())
			}
		}
	}
}

// The refs log of a store that is open for long stays short.
func TestRefsStayShort(t *testing.T) {
	r := newRig(t, Options{})
	must(t, r.volume("a", 1<<20).Close())
	for range 64 {
		must(t, r.s.catalog.append(context.Background(), padded(1<<18)))
	}
	must(t, r.volume("b", 1<<20).Close())
	for _, name := range refs.LogFiles {
		if n := len(disktest.ReadFile(t, r.mem, name)); n > 4*(1<<20) {
			t.Errorf("%s has %d bytes", name, n)
		}
	}
	must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(1, 1))), "next boot"))
	r.undamaged("compacted while open")
	if vols := r.s.Volumes(); len(vols) != 2 {
		t.Errorf("%+v", vols)
	}
}

// The same, cut off at any operation, or failing there.
func TestEveryCutOfCompaction(t *testing.T) {
	for _, fault := range []error{nil, unix.EIO, unix.ENOSPC} {
		for n, done := int64(0), false; !done; n++ {
			r := newRig(t, Options{})
			must(t, r.volume("a", 1<<20).Close())
			must(t, r.s.Close())
			var left atomic.Int64
			left.Store(-1)
			r.open(func(op vfs.Op) error {
				if fault != nil && op.Kind != vfs.OpSpace && op.Kind != vfs.OpUsed && left.Load() >= 0 && left.Add(-1) == -1 {
					return fault
				}
				return nil
			})
			left.Store(n)
			if fault == nil {
				r.mem.CutAt(r.mem.Ops() + n)
			}
			answered := 0
			for i := range 3 {
				name := string(rune('p' + i))
				rec := refs.Record{Op: refs.OpVolume, ID: uuid.New(), Name: name, Size: 1 << 20, BlockSize: 512}
				if err := r.s.catalog.append(context.Background(), rec, padded(700<<10)); err != nil {
					break
				}
				answered++
			}
			if fault == nil {
				done = !r.mem.WasCut()
			} else {
				done = left.Load() >= 0
			}
			compacted := r.s.catalog.log.Size() < 3<<19
			if done && !compacted {
				t.Fatal("it was not compacted")
			}
			for disk := range uint64(2) {
				must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(disk, uint64(n)))), "next boot"))
				r.undamaged(fmt.Sprintf("operation %d, %v", n, fault))
				if vols := r.s.Volumes(); len(vols) < 1+answered {
					t.Errorf("operation %d, %v: %d volumes answered, %+v", n, fault, answered, vols)
				}
			}
		}
	}
}

// A version of before refs had a copy knows one file only. What it appends, and its compaction, count.
func TestRefsOfOlderVersion(t *testing.T) {
	for _, compact := range []bool{false, true} {
		r := newRig(t, Options{})
		must(t, r.volume("a", 1<<20).Close())
		must(t, r.volume("b", 1<<20).Close())
		for i := range 20 {
			_, err := r.s.CreateSnapshot(context.Background(), "b", string(rune('a'+i)))
			must(t, err)
		}
		must(t, r.s.Close())
		old := refs.NewState(disk.MaxChunkSize)
		l, err := record.Open(t.Context(), r.mem, []string{refs.LogFile}, refs.LogID(r.s.sb.ID), false, old.ApplyFrame)
		must(t, err)
		if compact {
			b, err := json.Marshal(slices.Collect(old.Records))
			must(t, err)
			n, err := record.Create(r.mem, refs.LogFile+".new", refs.LogID(r.s.sb.ID))
			must(t, err)
			must(t, n.Append(b))
			must(t, n.Close())
			must(t, r.mem.Rename(refs.LogFile+".new", refs.LogFile))
			must(t, r.mem.SyncDir("refs"))
			l, err = record.Open(t.Context(), r.mem, []string{refs.LogFile}, refs.LogID(r.s.sb.ID), false, refs.NewState(disk.MaxChunkSize).ApplyFrame)
			must(t, err)
		}
		b, err := json.Marshal([]refs.Record{{Op: refs.OpVolumeDelete, ID: old.Volumes["a"].ID}})
		must(t, err)
		must(t, l.Append(b))
		must(t, l.Close())
		for range 2 {
			if err := r.reopened(r.mem.Kill(), "boot"); err != nil {
				t.Fatalf("compacted %v: %v", compact, err)
			}
			if vols := r.s.Volumes(); len(vols) != 1 || vols[0].Name != "b" || vols[0].Snapshots != 20 {
				t.Errorf("compacted %v: %+v", compact, vols)
			}
			if report, err := r.s.Check(context.Background(), nil); err != nil || report.Damaged() > 0 {
				t.Errorf("compacted %v: %v, %+v", compact, err, report.Damage)
			}
		}
	}
}

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
	l, err := record.Open(t.Context(), r.mem, refs.LogFiles, refs.LogID(r.s.sb.ID), false, func(p []byte) error {
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
