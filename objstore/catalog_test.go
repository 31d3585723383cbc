package objstore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// inDoubt opens the rig's store with a file layer that lets a record of refs reach one of the log's files, and, as long as
// the returned switch is on, has no memory for the other file, nor to take the record back.
func (r *rig) inDoubt() *atomic.Bool {
	r.t.Helper()
	must(r.t, r.s.Close())
	var fails atomic.Bool
	r.open(func(op vfs.Op) error {
		second := op.Kind == vfs.OpWrite && op.Name == refs.LogCopy
		if fails.Load() && (second || op.Kind == vfs.OpTruncate && strings.HasPrefix(op.Name, refs.LogFile)) {
			return syscall.ENOMEM
		}
		return nil
	})
	return &fails
}

// A deletion that was answered with an error, and whose record could not be taken back, is taken back before anybody opens
// the volume: what is flushed to it then is there after a power cut.
func TestFailedDeletionIsTakenBackBeforeTheVolumeOpens(t *testing.T) {
	r := newRig(t, Options{})
	must(t, r.volume("a", 1<<20).Close())
	fails := r.inDoubt()
	r.write(r.volume("b", 1<<20), make([]byte, 4096), 0) // IDs of segments are set aside: no record is needed for that
	must(t, r.s.Quiesce())
	fails.Store(true)
	if err := r.s.DeleteVolume(context.Background(), "a"); !errors.Is(err, syscall.ENOMEM) {
		t.Fatalf("delete without memory: %v", err)
	}
	if _, err := r.s.OpenVolume("a", "test"); !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("open while the deletion is in doubt: %v", err)
	}
	fails.Store(false)
	v, err := r.s.OpenVolume("a", "test")
	must(t, err)
	data := randomBytes(1, 4096)
	r.write(v, data, 0)
	must(t, v.Flush())
	for disk := range uint64(8) {
		must(t, r.reopened(r.mem.PowerCut(newRand(disk)), "next boot"))
		v, err := r.s.OpenVolume("a", "test")
		if err != nil {
			t.Fatalf("disk %d: %v", disk, err)
		}
		got := make([]byte, len(data))
		if _, err := v.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("disk %d: other bytes than were flushed (%v)", disk, err)
		}
		must(t, v.Close())
	}
}

// What is answered with success holds after a crash, even if no record was needed for it: one that was answered with an
// error, and says otherwise, is taken back first.
func TestFailedRecordIsTakenBackBeforeTheNextDecision(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	must(t, r.volume("a", 1<<20).Close())
	fails := r.inDoubt()
	must(t, r.s.Quiesce())
	fails.Store(true)
	if _, err := r.s.SetVerify(ctx, "a", true); !errors.Is(err, syscall.ENOMEM) {
		t.Fatalf("set without memory: %v", err)
	}
	if _, err := r.s.SetVerify(ctx, "a", false); !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("set as it was, while that is in doubt: %v", err)
	}
	fails.Store(false)
	_, err := r.s.SetVerify(ctx, "a", false)
	must(t, err)
	for disk := range uint64(8) {
		must(t, r.reopened(r.mem.PowerCut(newRand(disk)), "next boot"))
		if i, err := r.s.VolumeInfo("a"); err != nil || i.Verify {
			t.Fatalf("disk %d: %+v, %v", disk, i, err)
		}
	}
}

// A record that is in doubt is taken back by the settler's tick, and by the end.
func TestFailedRecordIsTakenBackInTime(t *testing.T) {
	for _, end := range []string{"tick", "close"} {
		r := newRig(t, Options{})
		fails := r.inDoubt()
		must(t, r.s.Quiesce())
		fails.Store(true)
		if _, err := r.s.CreateVolume(context.Background(), "a", VolumeOptions{Size: 1 << 20}); !errors.Is(err, syscall.ENOMEM) {
			t.Fatalf("create without memory: %v", err)
		}
		fails.Store(false)
		if end == "tick" {
			r.s.Resume()
			for deadline := time.Now().Add(patience); r.s.catalog.inDoubt() && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
		} else {
			must(t, r.s.Close())
		}
		must(t, r.reopened(r.mem.PowerCut(newRand(1)), "next boot"))
		if vols := r.s.Volumes(); len(vols) != 0 {
			t.Errorf("%s: %+v", end, vols)
		}
	}
}

// Nor is anything answered with success, because it is so already, once a sync of the log has failed: a
// record that was answered with an error may say otherwise after a crash.
func TestNothingToDoIsNoSuccessAfterFailedSync(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	must(t, r.volume("a", 1<<20).Close())
	must(t, r.s.Close())
	var fails atomic.Bool
	r.open(func(op vfs.Op) error {
		if fails.Load() && op.Kind == vfs.OpDatasync && strings.HasPrefix(op.Name, refs.LogFile) {
			return syscall.EIO
		}
		return nil
	})
	quota, none := int64(1<<20), int64(0)
	if _, err := r.s.SetLimits(ctx, "a", &none, nil); err != nil {
		t.Errorf("what is so already: %v", err)
	}
	must(t, r.s.catalog.append(ctx, refs.Record{Op: refs.OpLimits, ID: r.s.catalog.refs.Volumes["a"].ID})) // notes the feature
	fails.Store(true)
	if _, err := r.s.SetLimits(ctx, "a", &quota, nil); !errors.Is(err, syscall.EIO) {
		t.Fatalf("set a quota as the sync fails: %v", err)
	}
	if _, err := r.s.SetLimits(ctx, "a", &none, nil); !errors.Is(err, ErrReadOnly) {
		t.Errorf("what may not be so after a crash was answered with %v, want %v", err, ErrReadOnly)
	}
	must(t, r.reopened(r.mem.Kill(), "boot"))
	if i, err := r.s.VolumeInfo("a"); err != nil || i.Quota != quota {
		t.Errorf("after the crash the quota is %d (%v): the record was not in the log", i.Quota, err)
	}
}
