package objstore

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"varve/objstore/internal/journal"
	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// No descriptors or no memory left, at any operation and for a moment or a while, turns nothing
// read-only and is no damage: what was asked for fails at most, and when it is over everything
// works, without another opening.
func TestEveryPassingFault(t *testing.T) {
	const forAWhile = 40 // operations that fail in a row: more than one that is tried again
	stride := 17
	if crashCuts(t, 0) > 0 {
		stride = 1
	}
	for name, c := range map[string]struct {
		errno syscall.Errno
		fails int64
		kinds func(vfs.Kind) bool
	}{
		"EMFILE at once":     {syscall.EMFILE, 1, takesDescriptor},
		"EMFILE for a while": {syscall.EMFILE, forAWhile, takesDescriptor},
		"ENFILE for a while": {syscall.ENFILE, forAWhile, takesDescriptor},
		"ENOMEM at once":     {syscall.ENOMEM, 1, func(k vfs.Kind) bool { return k != vfs.OpDatasync }},
		"ENOMEM for a while": {syscall.ENOMEM, forAWhile, func(k vfs.Kind) bool { return k != vfs.OpDatasync && k != vfs.OpSyncDir }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tried := 0
			for n := int64(0); ; n += int64(stride) {
				w := fixedWorld(t, uint64(n))
				w.init()
				var count atomic.Int64
				w.setHook(func(op vfs.Op) error {
					if !c.kinds(op.Kind) {
						return nil
					}
					if i := count.Add(1) - 1; i < n || i >= n+c.fails {
						return nil
					}
					return c.errno
				})
				fixedWorkload(w)
				met := count.Load() > n
				w.setHook(nil)
				w.note("%v at operation %d, %d times", c.errno, n, c.fails)
				if w.s == nil {
					w.must(w.start())
				}
				if err := w.s.writeError(); err != nil {
					w.failf("read-only: %v", err)
				}
				w.opSettle()
				r, err := w.s.Check(t.Context(), nil)
				if err != nil || len(r.Damage) > 0 {
					w.failf("taken for damage: %+v (%v)", r, err)
				}
				w.reopen()
				w.must(w.stop())
				if !met {
					break
				}
				tried++
			}
			if t.Logf("%d operations failed", tried); tried == 0 {
				t.Error("nothing failed")
			}
		})
	}
}

// takesDescriptor says whether an operation needs a descriptor.
func takesDescriptor(k vfs.Kind) bool {
	return k == vfs.OpOpen || k == vfs.OpCreate || k == vfs.OpList || k == vfs.OpLock
}

// A flush that finds no descriptor to make its journal's name durable leaves no commit record
// behind: with the next flush's there would be two, and the power may go before either vouches for
// anything.
func TestFlushThatCantNameItsJournal(t *testing.T) {
	var fails, cuts atomic.Bool // the next segment is made beside the test
	r := newRig(t, Options{})
	must(t, r.s.Close())
	r.open(func(op vfs.Op) error {
		switch {
		case fails.Load() && op.Kind == vfs.OpSyncDir && op.Name == journal.Dir:
			return syscall.EMFILE
		case cuts.Load() && op.Kind == vfs.OpDatasync && strings.HasPrefix(op.Name, journal.Dir):
			r.mem.CutAt(r.mem.Ops())
		}
		return nil
	})
	v := r.volume("a", 1<<20)
	must(t, r.s.Quiesce())
	for i := range int64(40) { // more than one sector of records
		r.write(v, randomBytes(1, 4096), i<<12)
	}
	fails.Store(true)
	if err := v.Flush(); !errors.Is(err, syscall.EMFILE) {
		t.Fatalf("flush without descriptors: %v", err)
	}
	fails.Store(false)
	cuts.Store(true)
	if err := v.Flush(); !errors.Is(err, vfs.ErrCut) {
		t.Fatalf("flush as the power goes: %v", err)
	}
	cut := r.mem
	for disk := range uint64(100) {
		must(t, r.reopened(cut.PowerCut(newRand(disk)), "next boot"))
		if _, err := r.s.OpenVolume("a", "test"); err != nil {
			t.Fatalf("disk %d: %v", disk, err)
		}
	}
}

// Refs whose copy was removed, and could not be made anew for want of descriptors, are compacted
// the next time.
func TestCompactionAfterPassingFault(t *testing.T) {
	var fails, removed atomic.Bool // both files of refs are written at once
	r := newRig(t, Options{})
	must(t, r.s.Close())
	r.open(func(op vfs.Op) error {
		if fails.Load() && op.Kind == vfs.OpRemove && op.Name == refs.LogCopy {
			removed.Store(true)
		}
		if removed.Load() && fails.Load() && op.Kind == vfs.OpSyncDir {
			return syscall.EMFILE
		}
		return nil
	})
	must(t, r.s.Quiesce())
	fails.Store(true)
	for range 8 {
		must(t, r.s.catalog.append(context.Background(), padded(1<<18)))
	}
	fails.Store(false)
	if !removed.Load() {
		t.Fatal("refs were not compacted")
	}
	for range 32 {
		must(t, r.s.catalog.append(context.Background(), padded(1<<18)))
	}
	if end := r.s.catalog.log.Size(); end > 4<<20 {
		t.Errorf("the refs log has %d bytes", end)
	}
	must(t, r.reopened(r.mem.PowerCut(newRand(1)), "next boot"))
}
