package objstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

// logSize is how long the refs log is, in bytes.
func logSize(t *testing.T, r *rig) int64 {
	t.Helper()
	f, err := r.mem.Open(refsFile)
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
		recs := make([]refRecord, 100)
		for j := range recs {
			root := merkle.Sum(merkle.KindRoot, fmt.Append(nil, i+j))
			recs[j] = refRecord{Op: opSnap, ID: v.ref.id, Name: fmt.Sprintf("auto-%08d", i+j), Root: root.String(), Logical: 1}
		}
		must(t, r.s.catalog.append(append([]refRecord{{Op: opVerify, ID: v.ref.id}}, recs...)...))
	}
}

func dropSnapshots(t *testing.T, r *rig, from, n int) {
	t.Helper()
	v, err := r.s.catalog.volume("a")
	must(t, err)
	for i := from; i < from+n; i += 100 {
		recs := make([]refRecord, 100)
		for j := range recs {
			recs[j] = refRecord{Op: opSnapDelete, ID: v.ref.id, Name: fmt.Sprintf("auto-%08d", i+j)}
		}
		must(t, r.s.catalog.append(recs...))
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
	l := r.s.catalog.log
	must(t, l.Close())
	l, err := record.Open(r.mem, refsFiles, refsID(r.s.sb.id), false, func(p []byte) error {
		frames++
		largest = max(largest, len(p))
		return nil
	})
	must(t, err)
	r.s.catalog.log = l
	one := int64(260) * live
	if n := logSize(t, r); n > refsLong+12*one {
		t.Errorf("the log has %d bytes for %d snapshots", n, live)
	}
	if largest > 1<<20 {
		t.Errorf("of %d frames the largest has %d bytes", frames, largest)
	}
	snapshotCount(t, r, live)
	must(t, r.s.Close())
	r.open(nil)
	snapshotCount(t, r, live)
}

// Before the log is as long as it may be, it takes no more names, and says what to do; deleting and settling go on.
func TestRefsThatAreFull(t *testing.T) {
	defer func(was int64) { refsFull = was }(refsFull)
	ctx := context.Background()
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	refsFull = 3 << 20
	made := 0
	for ; r.s.catalog.log.Size() < refsFull-64<<10; made += 100 {
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
	if n := logSize(t, r); n > refsFull-refsFull/8 {
		t.Errorf("the log has %d bytes after most of it was deleted", n)
	}
	_, err = r.s.CreateSnapshot(ctx, "a", "again")
	must(t, err)
	must(t, v.Close())
}

// A long log is opened without being read as a whole, unless something is wrong with it.
func TestLongRefsAreStreamed(t *testing.T) {
	defer func(was int64) { streamAbove = was }(streamAbove)
	streamAbove = 64 << 10
	r := newRig(t, Options{})
	must(t, r.volume("a", 1<<20).Close())
	const n = 12000
	recordSnapshots(t, r, 0, n)
	size := logSize(t, r)
	must(t, r.s.Close())
	var mu sync.Mutex
	largest := int64(0)
	hook := func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == vfs.OpRead && strings.HasPrefix(op.Name, "refs/") {
			largest = max(largest, op.Len)
		}
		return nil
	}
	reopen := func(whole bool, damage int) {
		t.Helper()
		mu.Lock()
		largest = 0
		mu.Unlock()
		r.open(hook)
		snapshotCount(t, r, n)
		mu.Lock()
		if got := largest > 1<<20; got != whole {
			t.Errorf("a log of %d bytes was read in pieces of up to %d", size, largest)
		}
		mu.Unlock()
		if len(r.s.repairs) != damage {
			t.Errorf("mended: %v", r.s.repairs)
		}
		must(t, r.s.Close())
	}
	reopen(false, 0)
	reopen(false, 0)
	change := func(name string, off int64, b []byte) {
		t.Helper()
		f, err := r.mem.Open(name)
		must(t, err)
		_, err = f.WriteAt(b, off)
		must(t, err)
		must(t, f.Close())
	}
	change(refsCopy, size/2, []byte("not what was there"))
	reopen(true, 1)
	reopen(false, 0)
	for _, name := range []string{refsFile, refsCopy} { // a frame that a power cut has torn
		change(name, r.s.catalog.log.Size(), []byte("torn, and never answered"))
	}
	reopen(true, 0)
	reopen(false, 0)
}
