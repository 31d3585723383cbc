package objstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"varve/objstore/internal/past"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// Roots are not captured while a record of a name is under way.
func TestCollectWaitsForRecord(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	recording, recorded := make(chan struct{}), make(chan struct{})
	var record sync.WaitGroup
	record.Go(func() { // the lock is another goroutine's, as it would be while a record is appended
		r.s.catalog.logMu.Lock()
		defer r.s.catalog.logMu.Unlock()
		close(recording)
		<-recorded
	})
	<-recording
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := r.s.collector.roots(ctx)
	close(recorded)
	record.Wait()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("roots were captured while a record was under way: %v", err)
	}
}

// While a record is in doubt that was answered with an error, nothing is freed: after a crash it would
// take effect.
func TestCollectTakesRecordBack(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	r.write(v, randomBytes(1, 4<<20), 0)
	must(t, r.s.Settle(t.Context()))
	must(t, v.Zero(0, 64<<20))
	must(t, r.s.Settle(t.Context()))
	must(t, v.Close())
	fails := r.inDoubt()
	fails.Store(true)
	if _, err := r.s.SetVerify(t.Context(), "a", true); !errors.Is(err, syscall.ENOMEM) {
		t.Fatalf("set without memory: %v", err)
	}
	if report, err := r.s.Collect(t.Context(), CollectOptions{}); !errors.Is(err, syscall.ENOMEM) || report.Dead > 0 {
		t.Errorf("with a record in doubt: %+v, %v", report, err)
	}
	fails.Store(false)
	if report := r.collect(); report.Dead == 0 || r.s.catalog.inDoubt() {
		t.Errorf("after the record could be taken back: %+v", report)
	}
}

// What a check walks stays until it has ended, although it has lost its name.
func TestCollectLeavesWhatIsChecked(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	r.write(v, randomBytes(1, 4<<20), 0)
	r.snapshot("a", "s")
	must(t, v.Zero(0, 64<<20))
	must(t, r.s.Settle(t.Context()))
	var held []rootOf
	var release func()
	r.s.catalog.imageRoots(func(all []image) { held, release = rootsOf(all), r.s.collector.hold(rootsOf(all)) })
	must(t, r.s.DeleteSnapshot(t.Context(), "a", "s"))
	r.collect()
	for _, h := range held {
		root, err := r.s.objects.Root(t.Context(), h.id, h.size)
		must(t, err)
		if _, err := r.s.objects.FreshNode(t.Context(), root.Top, root.Depth); !root.Top.IsZero() && err != nil {
			t.Errorf("a tree that is checked: %v", err)
		}
	}
	release()
	if report := r.collect(); report.Freed < 4<<20 {
		t.Errorf("the check has ended, and %d bytes were freed of 4 MiB", report.Freed)
	}
}

// Whoever has looked up a place just before its object was taken out of the list reads there before
// anything is punched.
func TestCollectPunchesAfterLookups(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	must(t, r.s.Close())
	var armed, looking, early atomic.Bool
	punches := atomic.Int64{}
	r.open(func(op vfs.Op) error {
		switch {
		case op.Kind == vfs.OpCreate && strings.HasSuffix(op.Name, ".dir.new") && armed.CompareAndSwap(true, false):
			pin := r.s.readers.lookups.Hold()
			looking.Store(true)
			time.AfterFunc(100*time.Millisecond, func() { looking.Store(false); pin.Release() })
		case op.Kind == vfs.OpPunch && strings.HasPrefix(op.Name, segment.Dir):
			punches.Add(1)
			early.Store(early.Load() || looking.Load())
		}
		return nil
	})
	v := r.volume("a", 64<<20)
	r.write(v, randomBytes(1, 4<<20), 0)
	must(t, r.s.Settle(t.Context()))
	must(t, v.Zero(0, 64<<20))
	must(t, r.s.Settle(t.Context()))
	punches.Store(0)
	armed.Store(true)
	r.collect()
	if armed.Load() || punches.Load() == 0 {
		t.Fatal("nothing was punched")
	}
	if early.Load() {
		t.Error("a hole was punched under a look-up")
	}
}

// A past state that was dropped stays as long as the file still has it: an opening after a crash finds
// it there.
func TestCollectLeavesSavedStates(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	must(t, r.s.Close())
	var fails atomic.Bool
	hook := func(op vfs.Op) error {
		if fails.Load() && strings.HasPrefix(op.Name, past.File) && op.Kind == vfs.OpCreate {
			return syscall.EMFILE
		}
		return nil
	}
	r.open(hook)
	v := r.volume("a", 1<<20)
	_, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 10}))
	must(t, err)
	for seed := range uint64(4) {
		r.write(v, randomBytes(seed, 256<<10), 0)
		must(t, r.s.Settle(t.Context()))
	}
	r.s.saveHistory()
	before, err := r.s.History("a")
	must(t, err)
	_, err = r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 1}))
	must(t, err)
	fails.Store(true)
	dropped, err := r.s.PruneHistory(t.Context(), "a")
	must(t, err)
	if len(dropped) < 2 {
		t.Fatalf("%d of %d states were dropped", len(dropped), len(before))
	}
	r.collect()
	must(t, v.Close())
	r.end("killed")
	r.open(nil)
	after, err := r.s.History("a")
	must(t, err)
	if len(after) != len(before) {
		t.Fatalf("%d states after a kill, and the file had %d", len(after), len(before))
	}
	for _, st := range after {
		w, err := r.s.OpenSnapshot("a", st.Name)
		must(t, err)
		if _, err := w.ReadAt(make([]byte, 1<<20), 0); err != nil {
			t.Errorf("state %s: %v", st.Name, err)
		}
		must(t, w.Close())
	}
}

// A resize counts as a settling: a collection does not begin to capture roots between the nodes that a
// resize has stored and the record that names them.
func TestResizeCountsAsSettling(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	must(t, r.s.Close())
	var armed atomic.Bool
	var writes, uncounted atomic.Int64
	r.open(func(op vfs.Op) error {
		spare := op.Off == 0 // its header, which another goroutine writes and which counts as nothing
		if armed.Load() && op.Kind == vfs.OpWrite && !spare && strings.HasPrefix(op.Name, segment.Dir) {
			writes.Add(1)
			c := r.s.collector
			c.mu.Lock()
			defer c.mu.Unlock()
			if len(c.settlings) == 0 {
				uncounted.Add(1)
			}
		}
		return nil
	})
	v := r.volume("a", 1<<20)
	r.write(v, randomBytes(1, 64<<10), 0)
	must(t, r.s.Settle(t.Context()))
	armed.Store(true)
	_, err := r.s.ResizeVolume(t.Context(), "a", 8<<30, ResizeOptions{})
	armed.Store(false)
	must(t, err)
	if writes.Load() == 0 || uncounted.Load() > 0 {
		t.Errorf("of %d writes of a resize, a collection would not have waited for %d", writes.Load(), uncounted.Load())
	}
}

// A volume that was deleted keeps its base as a root for as long as it can make plans.
func TestCollectLeavesVolumeThatLeaves(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 1<<20)
	r.write(v, randomBytes(1, 64<<10), 0)
	must(t, r.s.Settle(t.Context()))
	id := v.base.id
	must(t, v.Close())
	captured := func() bool {
		roots, err := r.s.collector.roots(t.Context())
		must(t, err)
		return slices.ContainsFunc(roots, func(root rootOf) bool { return root.id == id })
	}
	must(t, r.s.accounting.letGo(t.Context()))
	v.settleMu.Lock() // for which the end of the volume waits
	deleted := make(chan error, 1)
	go func() { deleted <- r.s.DeleteVolume(context.Background(), "a") }()
	for gone := false; !gone; time.Sleep(time.Millisecond) {
		gone = r.s.catalog.gone(v.volume)
	}
	must(t, r.s.accounting.letGo(t.Context()))
	if !captured() {
		t.Error("a volume that leaves, and can make plans, has no root")
	}
	v.settleMu.Unlock()
	must(t, <-deleted)
	if captured() {
		t.Error("the root of a volume that is gone is kept")
	}
}

// A root whose edges are counted stays until it was taken from the counts, for which its nodes are
// read, although it has lost its name.
func TestCollectLeavesWhatIsCounted(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 1<<20)
	r.write(v, randomBytes(1, 64<<10), 0)
	r.snapshot("a", "s")
	r.write(v, randomBytes(2, 64<<10), 0)
	must(t, r.s.Settle(t.Context()))
	i, err := r.s.SnapshotInfo("a", "s")
	must(t, err)
	captured := func() bool {
		roots, err := r.s.collector.roots(t.Context())
		must(t, err)
		return slices.ContainsFunc(roots, func(root rootOf) bool { return root.id.String() == i.Root })
	}
	r.counted()
	r.s.accounting.mu.Lock()
	must(t, r.s.DeleteSnapshot(t.Context(), "a", "s"))
	if !captured() {
		t.Error("a root that is counted, and has no name, is not kept")
	}
	r.s.accounting.mu.Unlock()
	must(t, r.s.accounting.letGo(t.Context()))
	if captured() {
		t.Error("a root that is not counted any more is kept")
	}
}
