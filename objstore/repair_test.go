package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/record"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// tailed is a store with a volume that has settled once and has three generations since, two of
// them with snapshots, all flushed; and what the volume holds, and held at each record's flush.
func tailed(t *testing.T) (r *rig, v *Volume, content []byte) {
	r = newRig(t, Options{})
	v = r.volume("a", 1<<20)
	content = make([]byte, 1<<20)
	n := uint64(0)
	write := func() {
		n++
		off := int64(n*7%250) * 4096
		p := randomBytes(n, 4096)
		r.write(v, p, off)
		copy(content[off:], p)
		must(t, v.Flush())
	}
	for range 5 {
		write()
	}
	must(t, r.s.Settle(context.Background()))
	must(t, r.s.Quiesce()) // nothing settles any more
	for i := range 3 {
		for range 6 {
			write()
		}
		if i < 2 {
			_, err := r.s.CreateSnapshot(context.Background(), "a", fmt.Sprint("s", i))
			must(t, err)
		}
	}
	return r, v, content
}

// A repair says when the volume was in the state that it goes back to: at the last flush before the
// damage, or, where nothing of the journal is left, when that state had settled. After a power cut
// and in a store whose log of refs was made anew it still does.
func TestTimeOfRepairedState(t *testing.T) {
	for _, c := range []struct {
		name   string
		record int // of the first generation; those at odd places are commits
		boot   string
	}{{"in the middle", 4, "boot"}, {"at the begin", 0, "boot"}, {"after a power cut", 4, "next boot"}} {
		began := time.Now().Add(-time.Second)
		r, v, _ := tailed(t)
		name, settled := v.layers[0].journal.Name(), v.ref.Settled
		if settled.Before(began) || settled.After(time.Now()) {
			t.Errorf("%s: settled at %v, and it is %v", c.name, settled, time.Now())
		}
		for rec := range r.s.catalog.refs.Records { // the log, when it is made anew
			if rec.Op == refs.OpHead && !rec.Time.Equal(settled) {
				t.Errorf("%s: the log made anew has %v, want %v", c.name, rec.Time, settled)
			}
		}
		want := settled
		if c.record > 0 {
			rp, err := v.layers[0].journal.Reread(r.mem)
			must(t, err)
			at := func(i int) time.Time {
				return rp.Commits[slices.IndexFunc(rp.Commits, func(cm journal.CommitAt) bool { return cm.At == i })].Time
			}
			want = at(c.record - 1)
			if next := at(c.record + 1); !next.After(want) {
				t.Errorf("%s: a later commit has the time %v, want it after %v", c.name, next, want)
			}
		}
		mem := r.mem.Kill()
		if c.boot != "boot" {
			mem = r.mem.PowerCut(rand.New(rand.NewPCG(1, 1)))
		}
		flip(t, mem, name, journal.Offset(c.record)+9)
		_ = r.s.Close()
		must(t, r.reopened(mem, c.boot))
		must(t, r.reopened(r.mem.Kill(), c.boot))
		said, err := r.s.RepairVolume(t.Context(), "a", false)
		must(t, err)
		if !said.Time.Equal(want) || want.Before(began) {
			t.Errorf("%s: goes back to %s of %v, want %v", c.name, said.BackTo, said.Time, want)
		}
	}
}

// A repair that a crash cuts off at any operation leaves a volume that is damaged still, or one
// that is repaired, and loses nothing that it had not named.
func TestEveryCutOfRepair(t *testing.T) {
	for _, gen := range []int{0, 1, 2} {
		for _, kind := range []string{"kill", "power cut", "EIO", "ENOSPC"} {
			for n, done := int64(0), false; !done; n++ {
				r, v, content := tailed(t)
				name := v.layers[gen].journal.Name()
				mem := r.mem.Kill()
				flip(t, mem, name, journal.Offset(4)+9)
				var count, at atomic.Int64
				at.Store(-1)
				_ = r.s.Close()
				r.mem = mem
				r.open(func(op vfs.Op) error {
					if op.Kind == vfs.OpRead || op.Kind == vfs.OpOpen || op.Kind == vfs.OpSize || count.Add(1) != at.Load() {
						return nil
					}
					if kind == "ENOSPC" {
						return unix.ENOSPC
					}
					return unix.EIO
				})
				said, err := r.s.RepairVolume(t.Context(), "a", false)
				must(t, err)
				if kind == "kill" || kind == "power cut" {
					r.mem.CutAt(r.mem.Ops() + n)
				} else {
					at.Store(count.Load() + n + 1)
				}
				_, err = r.s.RepairVolume(t.Context(), "a", true)
				met := r.mem.WasCut() || at.Load() >= 0 && count.Load() >= at.Load()
				if done = err == nil && !met; done {
					r.mem.CutAt(-1)
				} else if at.Load() >= 0 && err != nil { // the fault has passed
					if _, err = r.s.RepairVolume(t.Context(), "a", true); err != nil && !errors.Is(err, ErrReadOnly) {
						t.Fatalf("generation %d, %s at %d, tried again: %v", gen, kind, n, err)
					}
				}
				mem, boot := r.mem.Kill(), "boot"
				if kind == "power cut" {
					mem, boot = r.mem.PowerCut(rand.New(rand.NewPCG(uint64(n), 1))), "next boot"
				}
				if err := r.reopened(mem, boot); err != nil {
					t.Fatalf("generation %d, %s at %d: %v", gen, kind, n, err)
				}
				if r.s.Volumes()[0].Damage != "" {
					if done {
						t.Fatalf("generation %d, %s: repaired, and damaged again: %s", gen, kind, r.s.Volumes()[0].Damage)
					}
					_, err = r.s.RepairVolume(t.Context(), "a", true)
					if err != nil {
						t.Fatalf("generation %d, %s at %d, repaired again: %v", gen, kind, n, err)
					}
				}
				snaps, err := r.s.Snapshots("a")
				must(t, err)
				if len(snaps)+len(said.Snapshots) != 2 {
					t.Errorf("generation %d, %s at %d: snapshots %v, said that %v would go", gen, kind, n, snaps, said.Snapshots)
				}
				v = r.volume("a", 0)
				got := make([]byte, len(content))
				_, err = v.ReadAt(got, 0)
				must(t, err)
				lost := 0
				for off := int64(0); off < v.Size(); off += 4096 {
					if !bytes.Equal(got[off:off+4096], content[off:off+4096]) {
						lost++
						if !within(said.Lost, off) && said.Unknown == 0 {
							t.Fatalf("generation %d, %s at %d: byte %d is lost, and was not named: %+v", gen, kind, n, off, said)
						}
					}
				}
				if lost > 18-gen*6-2 {
					t.Errorf("generation %d, %s at %d: %d writes are lost", gen, kind, n, lost)
				}
				must(t, r.s.Settle(t.Context()))
				must(t, v.Close())
			}
		}
	}
}

// A volume whose journal could not be read when the store opened is there again when its disk is,
// whatever was done to others meanwhile; an attempt that fails half way leaves nothing on the
// account.
func TestReadableAgain(t *testing.T) {
	r, v, content := tailed(t)
	b := r.volume("b", 1<<20)
	for i := range 3 {
		r.write(b, randomBytes(uint64(100+i), 8192), 0)
		must(t, b.Flush())
	}
	name, second := v.layers[0].journal.Name(), v.layers[1].journal.Name()
	var bad atomic.Int32
	hook := func(op vfs.Op) error {
		switch {
		case bad.Load() == 1 && op.Kind == vfs.OpRead && op.Name == name && op.Off+op.Len > journal.Offset(0):
			return unix.EIO
		case bad.Load() == 2 && op.Kind == vfs.OpWrite && op.Name == second:
			return unix.EIO
		}
		return nil
	}
	bad.Store(1)
	mem := r.mem.Kill()
	_ = r.s.Close()
	r.mem = mem
	r.open(hook)
	if _, err := r.s.OpenVolume("a", "test"); !errors.Is(err, unix.EIO) {
		t.Fatalf("open: %v", err)
	}
	b = r.volume("b", 0)
	r.write(b, randomBytes(200, 65536), 4096)
	must(t, r.s.Settle(t.Context()))
	must(t, b.Close())
	bad.Store(2)
	for range 3 {
		if _, err := r.s.OpenVolume("a", "test"); !errors.Is(err, unix.EIO) {
			t.Fatalf("open: %v", err)
		}
	}
	bad.Store(0)
	v = r.volume("a", 0)
	wantRead(t, v, 0, content)
	must(t, r.s.Settle(t.Context()))
	wantRead(t, v, 0, content)
	if tails, reserved := r.s.space.tails.Load(), r.s.space.reserved.Load(); tails != 0 || reserved != 0 {
		t.Errorf("all has settled, and %d bytes of tails and %d of settle reservation are left", tails, reserved)
	}
	for _, g := range r.s.segments.All() {
		if n := g.Unsettled.Load(); n != 0 && g != v.appendSegment {
			t.Errorf("all has settled, and %d bytes of %s have not", n, segment.Name(g.ID))
		}
	}
	snaps, err := r.s.Snapshots("a")
	must(t, err)
	if len(snaps) != 2 {
		t.Errorf("snapshots: %+v", snaps)
	}
	must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(1, 1))), "next boot"))
	r.undamaged("cleared")
	wantRead(t, r.volume("a", 0), 0, content)
}

// The same, cut off at any operation.
func TestEveryCutOfSecondLook(t *testing.T) {
	for _, trusted := range []bool{true, false} {
		for n, done := int64(0), false; !done; n++ {
			r, v, content := tailed(t)
			name := v.layers[1].journal.Name()
			mem := r.mem.Kill()
			var bad atomic.Bool
			bad.Store(true)
			_ = r.s.Close()
			if r.mem = mem; !trusted {
				r.o.Boot = "next boot"
			}
			r.open(func(op vfs.Op) error {
				if bad.Load() && op.Kind == vfs.OpRead && op.Name == name {
					return unix.EIO
				}
				return nil
			})
			if _, err := r.s.OpenVolume("a", "test"); !errors.Is(err, unix.EIO) {
				t.Fatalf("open: %v", err)
			}
			bad.Store(false)
			r.mem.CutAt(r.mem.Ops() + n)
			_, err := r.s.OpenVolume("a", "test")
			done = err == nil && !r.mem.WasCut()
			must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(uint64(n), 2))), "the boot after"))
			r.undamaged(fmt.Sprintf("cut at %d", n))
			v = r.volume("a", 0)
			wantRead(t, v, 0, content)
			must(t, r.s.Settle(t.Context()))
			must(t, v.Close())
		}
	}
}

// A repair whose removals fail half way is done when it is tried again.
func TestRepairTriedAgain(t *testing.T) {
	r, v, _ := tailed(t)
	name := v.layers[0].journal.Name()
	mem := r.mem.Kill()
	flip(t, mem, name, journal.Offset(4)+9)
	var failing atomic.Bool
	_ = r.s.Close()
	r.mem = mem
	r.open(func(op vfs.Op) error {
		if failing.Load() && op.Kind == vfs.OpSyncDir && op.Name == journal.Dir {
			return unix.EIO
		}
		return nil
	})
	failing.Store(true)
	if _, err := r.s.RepairVolume(t.Context(), "a", true); !errors.Is(err, unix.EIO) {
		t.Fatalf("repair: %v", err)
	}
	failing.Store(false)
	if _, err := r.s.RepairVolume(t.Context(), "a", true); err != nil {
		t.Fatalf("repair tried again: %v", err)
	}
	must(t, r.volume("a", 0).Close())
}

// A store that is read-only doesn't repair.
func TestRepairReadOnly(t *testing.T) {
	r, v, _ := tailed(t)
	name := v.layers[2].journal.Name()
	mem := r.mem.Kill()
	flip(t, mem, name, journal.Offset(4)+9)
	must(t, r.reopened(mem, "boot"))
	_ = r.s.fail(errors.New("a disk that takes no writes"))
	ops := r.mem.Ops()
	if _, err := r.s.RepairVolume(t.Context(), "a", true); !errors.Is(err, ErrReadOnly) {
		t.Errorf("repair: %v", err)
	}
	if n := r.mem.Ops() - ops; n > 0 {
		t.Errorf("%d operations of a store that is read-only", n)
	}
}

// After a power cut that took the end marks, a bad sector at the end of one file of refs is no
// reason not to open: the other one has all.
func TestRefsEndUnreadable(t *testing.T) {
	for _, bad := range []string{refs.LogFile, refs.LogCopy} {
		r, _, content := tailed(t)
		mem := r.mem.Kill()
		var size int64
		for _, name := range []string{refs.LogFile, refs.LogCopy} {
			f, err := mem.Open(name)
			must(t, err)
			size, err = f.Size()
			must(t, err)
			must(t, f.Truncate(size-8 /* the end mark */))
			must(t, f.Close())
		}
		_ = r.s.Close()
		r.mem = mem
		r.o.FS = vfs.Inject(mem, func(op vfs.Op) error {
			if op.Kind == vfs.OpRead && op.Name == bad && op.Off+op.Len > size/disk.BlockSize*disk.BlockSize {
				return unix.EIO
			}
			return nil
		})
		s, err := Open(t.Context(), "mem", r.o)
		if err != nil {
			t.Errorf("%s ends in a bad sector: %v", bad, err)
			continue
		}
		r.s = s
		wantRead(t, r.volume("a", 0), 0, content)
	}
}

// Objects that were recorded before a settling came to its end are found by the next one: what it
// builds on them is missed, too, if their directory becomes shorter.
func TestDirectoryOfUnendedSettling(t *testing.T) {
	r := newRig(t, Options{})
	must(t, r.s.Close())
	var full atomic.Bool
	r.open(func(op vfs.Op) error {
		if full.Load() && op.Kind == vfs.OpWrite && op.Name == refs.LogFile {
			return unix.ENOSPC
		}
		return nil
	})
	v := r.volume("a", 1<<20)
	want := randomBytes(1, 64<<10)
	r.write(v, want, 0)
	full.Store(true)
	if err := r.s.Settle(t.Context()); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("settle: %v", err)
	}
	full.Store(false)
	must(t, r.s.Settle(t.Context()))
	must(t, v.Close())
	must(t, r.s.Close())
	mem := r.mem.Kill()
	names, err := mem.List(segment.Dir)
	must(t, err)
	for _, n := range names {
		if strings.HasSuffix(n, ".dir") {
			f, err := mem.Open(segment.Dir + "/" + n)
			must(t, err)
			must(t, f.Truncate(record.HeaderSize))
			must(t, f.Close())
		}
	}
	for range 2 {
		must(t, r.reopened(mem, "boot"))
		wantRead(t, r.volume("a", 0), 0, want)
		if report, err := r.s.Check(t.Context(), nil); err != nil || report.Damaged() == 0 {
			t.Errorf("check names nothing: %v", err)
		}
		mem = r.mem.Kill()
	}
}

// What is deleted gives its hold up.
func TestDeleteDamagedVolume(t *testing.T) {
	r, v, _ := tailed(t)
	for _, s := range []string{"s0", "s1"} {
		must(t, r.s.DeleteSnapshot(t.Context(), "a", s))
	}
	name := v.layers[0].journal.Name()
	mem := r.mem.Kill()
	flip(t, mem, name, journal.Offset(4)+9)
	must(t, r.reopened(mem, "boot"))
	must(t, r.s.DeleteVolume(t.Context(), "a"))
	if r.s.hold.Load() {
		t.Error("a volume that is deleted holds segments")
	}
	names, err := r.mem.List(journal.Dir)
	must(t, err)
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, v.ref.ID.String()) }) {
		t.Errorf("journals of a deleted volume: %v", names)
	}
	must(t, r.reopened(r.mem.Kill(), "boot"))
	r.undamaged("after deleting")
}

// A second look reads names that others delete meanwhile.
func TestSecondLookBesideNames(t *testing.T) {
	r, v, _ := tailed(t)
	for i := range 30 {
		_, err := r.s.CreateSnapshot(t.Context(), "a", fmt.Sprint("more", i))
		must(t, err)
	}
	name := v.layers[2].journal.Name()
	mem := r.mem.Kill()
	_ = r.s.Close()
	r.mem = mem
	r.open(func(op vfs.Op) error {
		if op.Kind == vfs.OpRead && op.Name == name {
			return unix.EIO
		}
		return nil
	})
	var done atomic.Bool
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		for !done.Load() {
			if _, err := r.s.RepairVolume(t.Context(), "a", false); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := range 30 {
		must(t, r.s.DeleteSnapshot(t.Context(), "a", fmt.Sprint("more", i)))
		time.Sleep(time.Millisecond)
	}
	done.Store(true)
	<-looked
}

// A file whose size makes no sense is damaged, and no reason to give up.
func TestFileOfNonsenseSize(t *testing.T) {
	r, v, content := tailed(t)
	base, names := r.mem.Kill(), []string{refs.LogFile, refs.LogCopy, refs.SuperblockFile, v.layers[1].journal.Name(), segment.ObjectLogName(r.s.segments.All()[0].ID)}
	for _, size := range []int64{1 << 40, 1 << 62} {
		for _, name := range names {
			mem := base.Kill()
			f, err := mem.Open(name)
			must(t, err)
			must(t, f.Truncate(size))
			must(t, f.Close())
			if err := r.reopened(mem, "boot"); err != nil {
				t.Errorf("%s of %d bytes: %v", name, size, err)
				continue
			}
			if strings.HasPrefix(name, journal.Dir) {
				said, err := r.s.RepairVolume(t.Context(), "a", true)
				if err != nil || said.Unknown == 0 {
					t.Errorf("%s of %d bytes: repair %+v, %v", name, size, said, err)
				}
			} else {
				wantRead(t, r.volume("a", 0), 0, content)
			}
		}
	}
}

// Nothing touches the files of a store that is closed: another process may have it.
func TestNothingAfterClose(t *testing.T) {
	for i := range 40 {
		r := newRig(t, Options{})
		v := r.volume("a", 1<<20)
		r.write(v, randomBytes(1, 512), 4096+512) // its chunk is copied, to a segment that is made for it
		must(t, v.Close())
		must(t, r.s.Close())
		var closed atomic.Bool
		r.open(func(op vfs.Op) error {
			if closed.Load() {
				t.Errorf("after Close: %v %s", op.Kind, op.Name)
			}
			return nil
		})
		r.s.settler.ask()
		time.Sleep(time.Duration(i*50) * time.Microsecond)
		_ = r.s.Close()
		closed.Store(true)
		time.Sleep(200 * time.Microsecond)
		r.s.workers.Wait()
	}
}

// A repair whose sync has failed is not repeated as if nothing had been lost: what it would have
// kept may be gone.
func TestRepairAfterFailedSync(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	must(t, r.s.Quiesce())
	for i := range 4 {
		r.write(v, randomBytes(uint64(i), 4096), int64(i)*8192)
		if i == 0 {
			must(t, v.Flush())
		}
	}
	name := v.layers[0].journal.Name()
	mem := r.mem.Kill()
	flip(t, mem, name, journal.Offset(3)+9) // behind a commit and two writes
	_ = r.s.Close()
	r.mem = mem
	var fails atomic.Bool
	r.open(func(op vfs.Op) error {
		if op.Kind == vfs.OpDatasync && strings.HasPrefix(op.Name, segment.Dir) && fails.Load() {
			return unix.EIO
		}
		return nil
	})
	fails.Store(true)
	if said, err := r.s.RepairVolume(t.Context(), "a", true); err == nil || within(said.Lost, 8192) {
		t.Fatalf("%v: %+v", err, said)
	}
	fails.Store(false)
	if said, err := r.s.RepairVolume(t.Context(), "a", true); !errors.Is(err, ErrReadOnly) {
		t.Errorf("%v: %+v", err, said)
	}
	must(t, r.reopened(r.mem.Kill(), "boot"))
	wantRead(t, r.volume("a", 0), 0, randomBytes(0, 4096)) // what was flushed
}
