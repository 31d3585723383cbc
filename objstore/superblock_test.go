package objstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// onDisk returns the features that each copy of the superblock has.
func onDisk(t *testing.T, fs vfs.FS) (first, second refs.Features) {
	t.Helper()
	for name, p := range map[string]*refs.Features{refs.SuperblockFile: &first, refs.SuperblockCopy: &second} {
		sb, err := refs.ReadSuperblockFile(fs, name)
		must(t, err)
		*p = sb.Features
	}
	return first, second
}

// Features are noted at their first use, in both copies, and stay: another UUID, a kill and a damaged
// copy take none back.
func TestFeaturesAreNotedAtFirstUse(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	r.write(r.volume("a", 1<<20), fill(1), 0)
	must(t, r.s.Settle(ctx))
	must(t, r.reopened(r.mem.Kill(), "boot"))
	want := func(what string, features ...refs.Feature) {
		t.Helper()
		first, second := onDisk(t, r.mem)
		if set := refs.NewFeatures(features...); first != set || second != set {
			t.Errorf("%s: the superblock has %v, and its copy %v", what, first.Names(), second.Names())
		}
	}
	want("a store that uses none")
	must(t, r.s.catalog.need(ctx, refs.NewFeatures(refs.Quota)))
	want("needed", refs.Quota)
	ops := r.mem.Ops()
	must(t, r.s.catalog.need(ctx, refs.NewFeatures(refs.Quota)))
	if r.mem.Ops() != ops {
		t.Error("a feature that the store has was noted again")
	}
	_, err := r.s.NewUUID()
	must(t, err)
	want("another UUID", refs.Quota)
	must(t, r.s.catalog.need(ctx, refs.NewFeatures(refs.Rename, refs.Quota)))
	want("one more", refs.Rename, refs.Quota)
	known := r.s.sb.known()
	must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(1, 1))), "next boot"))
	want("after a power cut", refs.Rename, refs.Quota)
	if r.s.sb.known() != known {
		t.Errorf("known by %s, want %s", r.s.sb.known(), known)
	}
	must(t, r.s.Close())
	overwrite(t, r.mem, refs.SuperblockFile, []byte("torn"), 100)
	r.open(nil)
	want("repaired", refs.Rename, refs.Quota)
}

// needing is a store of which one operation of need fails or is the last before the power cut.
// It returns whether need got that far.
func needing(t *testing.T, n int64, fault error) (r *rig, done bool, err error) {
	t.Helper()
	r = newRig(t, Options{})
	must(t, r.volume("a", 1<<20).Close())
	must(t, r.s.Close())
	var left atomic.Int64
	left.Store(-1)
	r.open(func(op vfs.Op) error {
		if op.Kind != vfs.OpSpace && op.Kind != vfs.OpUsed && left.Load() >= 0 && left.Add(-1) == -1 {
			return fault
		}
		return nil
	})
	if fault == nil {
		r.mem.CutAt(r.mem.Ops() + n)
	} else {
		left.Store(n)
	}
	err = r.s.catalog.need(t.Context(), refs.NewFeatures(refs.Resize))
	if fault == nil {
		return r, !r.mem.WasCut(), err
	}
	return r, left.Load() >= 0, err
}

// Whatever becomes of the disk while a feature is noted: what need has answered is in both copies,
// and the store opens, with nothing taken for damage. A failure leaves a store that goes on, and can
// note the feature later.
func TestEveryCutAndFaultOfNeed(t *testing.T) {
	features := refs.NewFeatures(refs.Resize)
	for _, fault := range []error{nil, unix.EIO, unix.ENOSPC, unix.ENOMEM} {
		for n, done := int64(0), false; !done; n++ {
			for cut := range uint64(4) {
				what := fmt.Sprintf("operation %d, %v, disk %d", n, fault, cut)
				r, end, err := needing(t, n, fault)
				if done = end; done && err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if errors.Is(fault, unix.ENOSPC) && err != nil && !errors.Is(err, ErrNoSpace) {
					t.Errorf("%s: %v", what, err)
				}
				if fault != nil && err != nil {
					if err := r.s.catalog.need(t.Context(), features); err != nil {
						t.Errorf("%s: once more: %v", what, err)
					}
					err = nil
				}
				must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(cut, uint64(n)))), "next boot"))
				r.undamaged(what)
				first, second := onDisk(t, r.mem)
				if first != second || err == nil && first != features {
					t.Errorf("%s: answered with %v; the superblock has %v, its copy %v", what, err, first.Names(), second.Names())
				}
			}
		}
	}
}

// A store that takes no writes notes no feature.
func TestReadOnlyStoreNotesNothing(t *testing.T) {
	r := newRig(t, Options{})
	_ = r.s.fail(disk.ErrUnsynced)
	if err := r.s.catalog.need(t.Context(), refs.NewFeatures(refs.Quota)); !errors.Is(err, ErrReadOnly) {
		t.Errorf("%v", err)
	}
	if first, second := onDisk(t, r.mem); first != (refs.Features{}) || second != first {
		t.Errorf("%v, %v", first.Names(), second.Names())
	}
}
