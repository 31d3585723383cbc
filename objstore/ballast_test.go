package objstore

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// fill lets others take all room of the disk but a few bytes, and release gives it back.
func (r *rig) fill(but int64) (release func()) {
	r.t.Helper()
	total, free, err := r.mem.Space()
	must(r.t, err)
	r.mem.SetSpace(total - free + but)
	r.s.space.lookAgain()
	return func() { r.mem.SetSpace(total) }
}

// freeOn returns what the disk has free.
func (r *rig) freeOn() int64 {
	r.t.Helper()
	_, free, err := r.mem.Space()
	must(r.t, err)
	return free
}

// withDead makes a store of which 4 MiB are dead, in segments of which a part lives.
func withDead(t *testing.T) (*rig, *Volume) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	for i := range int64(8) {
		r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
	}
	r.snapshot("a", "s")
	for i := range int64(4) {
		must(t, v.Zero(2*i<<20, 1<<20))
	}
	must(t, r.s.Settle(t.Context()))
	must(t, r.s.DeleteSnapshot(t.Context(), "a", "s"))
	return r, v
}

// On a disk of which others have taken the last byte, a collection frees what is dead, and the
// ballast is there again afterwards.
func TestCollectOnFullDisk(t *testing.T) {
	r, v := withDead(t)
	r.ballastComes("before others have filled the disk")
	r.fill(0)
	report := r.collect()
	if n := len(sealedSegments(r.s)); report.Segments > n {
		t.Errorf("%d segments were looked at, and %d are sealed", report.Segments, n)
	}
	if free := r.freeOn(); report.Freed < 4<<20 || free < 4<<20-disk.BlockSize {
		t.Errorf("%d bytes are free; %+v", free, report)
	}
	r.ballastComes("after a collection")
	r.holds(v, randomBytes(2, 1<<20), 1<<20)
	must(t, v.Close())
	r.end("killed")
	r.open(nil)
	r.undamaged("after a kill")
	r.ballastComes("after an opening")
}

// ballastComes waits until there is a ballast.
func (r *rig) ballastComes(when string) {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); r.s.ballast.held.Load() == 0; time.Sleep(time.Millisecond) {
		if r.s.ballast.keep(); time.Now().After(end) {
			r.t.Fatalf("%s: there is no ballast", when)
		}
	}
}

// Without a ballast a collection says on such a disk that there is no room, and goes on when there
// is some.
func TestCollectWithoutBallast(t *testing.T) {
	r, v := withDead(t)
	r.ballastComes("before others have filled the disk")
	release := r.fill(0)
	for !r.s.ballast.drop() {
		time.Sleep(time.Millisecond) // the settler is looking at it
	}
	r.fill(0) // now it has too little room to come back
	report, err := r.s.Collect(t.Context(), CollectOptions{})
	if !errors.Is(err, ErrNoSpace) || report.Freed > 0 {
		t.Errorf("without a byte: %+v, %v; want no space", report, err)
	}
	if st := r.s.CollectState(); !strings.Contains(st.Error, "no space") {
		t.Errorf("the state says %q", st.Error)
	}
	r.holds(v, randomBytes(2, 1<<20), 1<<20)
	release()
	if report := r.collect(); report.Freed < 4<<20 {
		t.Errorf("with room again: %+v", report)
	}
	r.holds(v, randomBytes(2, 1<<20), 1<<20)
}

// What is dead in whole segments, and in one that could not be sealed, comes back on a full disk too.
func TestCollectWholeSegmentsOnFullDisk(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	must(t, r.s.Close())
	var sealing atomic.Bool // fails
	r.open(func(op vfs.Op) error {
		if sealing.Load() && op.Kind == vfs.OpWrite && op.Off == smallestSegment && strings.HasSuffix(op.Name, ".seg") {
			return syscall.ENOSPC
		}
		return nil
	})
	v := r.volume("a", 64<<20)
	sealing.Store(true)
	for i := range int64(8) {
		r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
	}
	must(t, r.s.Settle(t.Context()))
	must(t, r.s.waitReclaimed(t.Context(), nil))
	sealing.Store(false)
	must(t, v.Zero(0, 64<<20))
	must(t, r.s.Settle(t.Context()))
	must(t, r.s.waitReclaimed(t.Context(), nil))
	r.fill(0)
	report := r.collect()
	if report.Freed < 8<<20 || report.Retired == 0 {
		t.Errorf("of 8 MiB that are dead: %+v", report)
	}
	if !r.s.sb.current.Load().Features.Has(refs.NewFeatures(refs.RetiredSegments)) {
		t.Error("the superblock does not say that segments were retired")
	}
}

// Names can be deleted on such a disk, more of them than the log of names has room for.
func TestDeleteOnFullDisk(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	must(t, v.Close())
	var names []string
	for i := range 1200 {
		names = append(names, fmt.Sprint("snapshot-", i))
		_, err := r.s.CreateSnapshot(t.Context(), "a", names[i])
		must(t, err)
	}
	r.ballastComes("before others have filled the disk")
	r.fill(0)
	if _, err := r.s.CreateSnapshot(t.Context(), "a", "one-more"); err == nil {
		names = append(names, "one-more") // the log of names has room for a few
	}
	for i, name := range names {
		if err := r.s.DeleteSnapshot(t.Context(), "a", name); err != nil {
			t.Fatalf("delete snapshot %d on a full disk: %v", i, err)
		}
	}
	if r.s.ballast.held.Load() > 0 {
		t.Error("the ballast was not needed")
	}
	must(t, r.s.DeleteVolume(t.Context(), "a"))
	r.end("killed")
	r.open(nil)
	if len(r.s.Volumes()) > 0 {
		t.Error("the volume is there again")
	}
}

// A write that finds no room waits for a collection to make some, if something is dead, and is
// refused at once if nothing is.
func TestWriteWaitsForCollection(t *testing.T) {
	o := collectAll(Options{Reserve: 8 << 20, collectNeed: collectNeed{
		tick: time.Millisecond, pause: time.Hour, least: 1 << 40, shortPause: time.Hour, leastShort: 1 << 20, waitedPause: time.Millisecond,
	}})
	r := newRig(t, o)
	v := r.volume("a", 64<<20)
	for i := range int64(8) {
		r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
	}
	r.snapshot("a", "s")
	must(t, v.Zero(0, 8<<20))
	must(t, r.s.Settle(t.Context()))
	must(t, r.s.waitReclaimed(t.Context(), nil))
	r.fill(14 << 20)
	refused := func(when string) {
		t.Helper()
		began := time.Now()
		for i := int64(0); ; i++ {
			_, err := v.WriteAt(randomBytes(uint64(100+i), 1<<20), 32<<20+i<<20)
			if errors.Is(err, ErrNoSpace) {
				break
			}
			must(t, err)
		}
		if took := time.Since(began); took > collectPatience/2 {
			t.Errorf("%s: it took %v until a write was refused", when, took)
		}
	}
	refused("nothing is dead")
	must(t, r.s.DeleteSnapshot(t.Context(), "a", "s"))
	for i := range int64(6) {
		if _, err := v.WriteAt(randomBytes(uint64(200+i), 1<<20), 48<<20+i<<20); err != nil {
			dead, known := r.s.dead()
			t.Fatalf("write %d: %v; %d bytes are free, %d are dead (%v); %+v", i, err, r.freeOn(), dead, known, r.s.CollectState())
		}
	}
	if r.s.CollectState().Last == nil {
		t.Error("there was room without a collection")
	}
	refused("all is freed")
}

// On a disk of which others have taken the last byte, what is discarded settles, and is freed. A
// discard of little leaves the ballast to others.
func TestDiscardOnFullDisk(t *testing.T) {
	for _, size := range []int64{1 << 20, 16 << 20} {
		o := collectAll(Options{SegmentSize: 128 << 20, Reserve: 32 << 20, SettleDelay: time.Millisecond})
		r := newRig(t, o)
		v := r.volume("a", 64<<20)
		for i := range int64(17) {
			r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
		}
		must(t, r.s.Settle(t.Context()))
		r.ballastComes("before others have filled the disk")
		r.fill(0)
		must(t, v.Zero(0, size))
		gen := v.activeGen()
		long := size >= leastErased
		for end := time.Now().Add(30 * time.Second); long && !v.hasSettled(gen); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("a discard of %d bytes does not settle: %+v", size, v.attempts.last.Load())
			}
		}
		if !long {
			for end := time.Now().Add(30 * time.Second); v.attempts.failed.Load() == 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if v.hasSettled(gen) || r.s.ballast.held.Load() == 0 {
				t.Errorf("a discard of %d bytes has taken the ballast", size)
			}
			continue
		}
		if report := r.collect(); report.Freed < size {
			t.Errorf("%d bytes were discarded: %+v", size, report)
		}
		r.ballastComes("after a collection")
		r.holds(v, randomBytes(17, 1<<20), 16<<20)
		r.end("killed")
		r.open(nil)
		r.undamaged("after a kill")
	}
}

// A write that finds the disk full, of which others have taken the room after it was reserved, waits
// as for room, and is tried again, once.
func TestWriteIsTriedAgain(t *testing.T) {
	r := newRig(t, Options{})
	must(t, r.s.Close())
	var refuse, refused atomic.Int64
	r.open(func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite && strings.HasSuffix(op.Name, ".seg") && op.Off > 0 && refuse.Load() > 0 {
			refuse.Add(-1)
			refused.Add(1)
			return syscall.EDQUOT
		}
		return nil
	})
	v := r.volume("a", 1<<20)
	for times, want := range []error{nil, nil, ErrNoSpace} {
		refuse.Store(int64(times))
		refused.Store(0)
		if _, err := v.WriteAt(randomBytes(1, 8192), 0); !errors.Is(err, want) {
			t.Errorf("refused %d times: %v, want %v", times, err, want)
		}
		if n := refused.Load(); n != int64(times) {
			t.Errorf("refused %d times of %d", n, times)
		}
	}
	must(t, v.Close())
}
