package objstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// reopened opens the store of a rig on another file system, as after a crash.
func (r *rig) reopened(mem *vfs.Mem, boot string) error {
	_ = r.s.Close()
	r.mem, r.o.FS, r.o.Boot, r.o.Index = mem, mem, boot, index.NewMem()
	s, err := Open(context.Background(), "mem", r.o)
	if err == nil {
		r.s = s
	}
	return err
}

// The log says what has become of writes that were not flushed, and why, in the words of what is known: that a process
// was killed is no power cut.
func TestReplayIsLogged(t *testing.T) {
	for _, c := range []struct{ name, boot, mount, want string }{
		{"kill", "boot", "mount", `unflushed=kept`},
		{"kill and remount", "boot", "other", `unflushed="dropped: it is of another mount"`},
		{"power cut", "next boot", "mount", `unflushed="dropped: it is of another boot"`},
		{"failed sync", "boot", "mount", `unflushed="dropped: a sync has failed"`},
	} {
		var log bytes.Buffer
		r := newRig(t, Options{Boot: "boot", Mount: "mount", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		v := r.volume("a", 1<<20)
		r.write(v, randomBytes(1, 4096), 0)
		must(t, v.Flush())
		r.write(v, randomBytes(2, 4096), 4096)
		if c.name == "failed sync" {
			v.layers[0].journal.Distrust()
		}
		r.o.Mount = c.mount
		must(t, r.reopened(r.mem.Kill(), c.boot))
		if !strings.Contains(log.String(), c.want) || strings.Contains(log.String(), "power") {
			t.Errorf("%s: the log does not say %s:\n%s", c.name, c.want, log.String())
		}
		log.Reset()
		must(t, r.reopened(r.mem.Kill(), c.boot)) // before anything has settled
		if want := `unflushed="none: the generation was complete"`; !strings.Contains(log.String(), want) {
			t.Errorf("%s, killed once more: the log does not say %s:\n%s", c.name, want, log.String())
		}
	}
}

// undamaged fails if opening has found damage.
func (r *rig) undamaged(what string) {
	r.t.Helper()
	for _, d := range append(slices.Clone(r.s.repairs), r.s.losses...) {
		r.t.Errorf("%s: taken for damage: %v", what, d)
	}
	for _, v := range r.s.Volumes() {
		if v.Damage != "" {
			r.t.Errorf("%s: volume %s: taken for damage: %s", what, v.Name, v.Damage)
		}
	}
}

// longRefs makes the refs log long enough to be compacted.
func (r *rig) longRefs() {
	r.t.Helper()
	must(r.t, r.s.Close())
	l, err := record.Open(r.mem, refs.LogFiles, refs.LogID(r.s.sb.ID), false, refs.NewState(disk.MaxChunkSize).ApplyFrame)
	must(r.t, err)
	b, err := json.Marshal(slices.Repeat([]refs.Record{{Op: refs.OpSegments, Gen: 1, Name: strings.Repeat("long ", 200)}}, 1100))
	must(r.t, err)
	must(r.t, l.Append(b))
	must(r.t, l.Close())
}

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

// padded is a record that says nothing, at length.
func padded(n int) refs.Record {
	return refs.Record{Op: refs.OpSegments, Gen: 1, Name: strings.Repeat("x", n)}
}

// The refs log of a store that is open for long stays short.
func TestRefsStayShort(t *testing.T) {
	r := newRig(t, Options{})
	must(t, r.volume("a", 1<<20).Close())
	for range 64 {
		must(t, r.s.catalog.append(padded(1<<18)))
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
				if err := r.s.catalog.append(rec, padded(700<<10)); err != nil {
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
		l, err := record.Open(r.mem, []string{refs.LogFile}, refs.LogID(r.s.sb.ID), false, old.ApplyFrame)
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
			l, err = record.Open(r.mem, []string{refs.LogFile}, refs.LogID(r.s.sb.ID), false, refs.NewState(disk.MaxChunkSize).ApplyFrame)
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

// newRigOfTwo has two volumes, of which the first one, v, has something that has not settled. Both are closed.
func newRigOfTwo(t *testing.T) (r *rig, v *Volume) {
	r = newRig(t, Options{})
	v = r.volume("a", 1<<20)
	w := r.volume("b", 1<<20)
	r.write(v, randomBytes(1, 4096), 0)
	r.write(w, randomBytes(2, 4096), 0)
	must(t, r.s.Settle(context.Background()))
	r.write(v, randomBytes(3, 4096), 8192)
	must(t, v.Close())
	must(t, w.Close())
	return r, v
}

// A disk that doesn't let a file be opened has damaged that file alone.
func TestFileThatCantBeOpened(t *testing.T) {
	r, _ := newRigOfTwo(t)
	must(t, r.s.Close())
	for _, dir := range []string{"refs", segment.Dir, journal.Dir, "."} {
		names, err := r.mem.List(dir)
		must(t, err)
		for _, name := range names {
			if name = strings.TrimPrefix(dir+"/"+name, "./"); dir == "." && !strings.HasPrefix(name, "superblock") {
				continue
			}
			for _, errno := range []unix.Errno{unix.EIO, unix.EUCLEAN} {
				o := r.o
				o.Index = index.NewMem()
				r.mem = r.mem.Kill()
				o.FS = vfs.Inject(r.mem, func(op vfs.Op) error {
					if op.Kind == vfs.OpOpen && op.Name == name {
						return errno
					}
					return nil
				})
				s, err := Open(context.Background(), "mem", o)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				report, err := s.Check(context.Background(), nil)
				if err != nil || len(report.Damage) == 0 {
					t.Errorf("%s: %v; check names nothing", name, err)
				}
				must(t, s.Close())
			}
		}
	}
}

// Nor does a file without an inode, which can't be replaced or removed either, keep the store from opening.
func TestFileThatCantBeTouched(t *testing.T) {
	r, v := newRigOfTwo(t)
	left := journal.Name(v.ref.ID, v.baseGen)
	must(t, r.s.Close())
	leave := func() { // what a crash may leave behind
		for _, name := range []string{left, left + journal.DraftSuffix, refs.LogFile + ".new", refs.LogCopy + ".new", refs.SuperblockFile + ".new", refs.SuperblockCopy + ".new"} {
			if f, err := r.mem.Create(name); err == nil {
				must(t, f.Close())
			}
		}
	}
	for _, dir := range []string{"refs", segment.Dir, journal.Dir, "."} {
		leave()
		names, err := r.mem.List(dir)
		must(t, err)
		for _, name := range names {
			if name = strings.TrimPrefix(dir+"/"+name, "./"); dir == "." && !strings.HasPrefix(name, "superblock") {
				continue
			}
			o := r.o
			o.Index = index.NewMem()
			r.mem = r.mem.Kill()
			leave()
			touches := []vfs.Kind{vfs.OpOpen, vfs.OpCreate, vfs.OpRename, vfs.OpRemove, vfs.OpUsed}
			o.FS = vfs.Inject(r.mem, func(op vfs.Op) error {
				if op.Name == name && slices.Contains(touches, op.Kind) {
					return unix.EUCLEAN
				}
				return nil
			})
			s, err := Open(context.Background(), "mem", o)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			must(t, s.Close())
		}
	}
}

// The size of a journal that has grown may be lost with a power cut, while records are not: that is no damage.
func TestJournalGrownAndCut(t *testing.T) {
	r := newRig(t, Options{JournalRecords: 4 * journal.WindowRecords, TailSoft: 1 << 40, TailHard: 1 << 40})
	v := r.volume("a", 1<<30)
	r.write(v, randomBytes(1, 4096), 0)
	must(t, v.Flush())
	for i := range int64(journal.WindowRecords + 100) {
		must(t, v.Zero(1<<20+i*512, 512))
	}
	name := v.active().journal.Name()
	mem := r.mem.Kill()
	f, err := mem.Open(name)
	must(t, err)
	must(t, f.Truncate(journal.Offset(0)+journal.WindowSize)) // all of the first window was written back
	must(t, f.Close())
	for _, boot := range []string{"next boot", "the one after"} {
		must(t, r.reopened(mem, boot))
		r.undamaged("grown journal")
		v = r.volume("a", 0)
		wantRead(t, v, 0, randomBytes(1, 4096))
		must(t, v.Close())
		mem = r.mem.Kill()
	}
}

// A repaired journal stays repaired, also when nothing has settled before the next crash.
func TestRepairedTwice(t *testing.T) {
	for _, cutTo := range []int64{journal.Offset(40), journal.Offset(3) + 5, 100} {
		r := newRig(t, Options{})
		v := r.volume("a", 1<<20)
		for i := range 20 {
			r.write(v, randomBytes(uint64(i+1), 4096), int64(i)*4096)
			must(t, v.Flush())
		}
		name := v.active().journal.Name()
		mem := r.mem.Kill()
		f, err := mem.Open(name)
		must(t, err)
		must(t, f.Truncate(cutTo))
		must(t, f.Close())
		must(t, r.reopened(mem, "boot"))
		said, err := r.s.RepairVolume(context.Background(), "a", true)
		must(t, err)
		if said.Unknown == 0 {
			t.Errorf("cut to %d bytes: the repair says that it knows all that is lost: %+v", cutTo, said)
		}
		must(t, r.reopened(r.mem.Kill(), "boot"))
		r.undamaged("repaired")
		must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(1, 1))), "next boot"))
		r.undamaged("repaired, and a power cut")
	}
}

// Check looks at the journals that an opening has replayed, too.
func TestCheckReplayedJournal(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	for i := range 20 {
		r.write(v, randomBytes(uint64(i+1), 4096), int64(i)*4096)
	}
	must(t, v.Close())
	name := v.active().journal.Name()
	must(t, r.reopened(r.mem.Kill(), "boot"))
	flip(t, r.mem, name, journal.Offset(5)+9)
	report, err := r.s.Check(context.Background(), nil)
	must(t, err)
	if !slices.ContainsFunc(report.Damage, func(d Damage) bool { return d.File == name && d.Offset == journal.Offset(5) }) {
		t.Errorf("check does not name it: %+v", report.Damage)
	}
}

// A generation that is missing as a whole is more than what the journals behind it speak of.
func TestRepairNamesLoss(t *testing.T) {
	for _, lost := range []string{"a generation", "a snapshot's generation", "the root"} {
		r := newRig(t, Options{})
		ctx := context.Background()
		v := r.volume("a", 1<<20)
		r.write(v, randomBytes(1, 4096), 0)
		_, err := r.s.CreateSnapshot(ctx, "a", "settled")
		must(t, err)
		must(t, r.s.Settle(ctx))
		r.write(v, randomBytes(2, 4096), 0)
		must(t, r.s.Settle(ctx))
		must(t, r.s.Quiet()) // nothing settles any more
		r.write(v, randomBytes(3, 4096), 4096)
		_, err = r.s.CreateSnapshot(ctx, "a", "unsettled")
		must(t, err)
		gone := v.layers[0].journal.Name()
		if lost == "a generation" {
			r.write(v, randomBytes(4, 4096), 8192)
			must(t, v.Flush())
		}
		mem := r.mem.Kill()
		if lost == "the root" {
			l, err := record.Open(mem, refs.LogFiles, refs.LogID(r.s.sb.ID), false, refs.NewState(disk.MaxChunkSize).ApplyFrame)
			must(t, err)
			b, err := json.Marshal([]refs.Record{{Op: refs.OpHead, ID: v.ref.ID, Gen: v.baseGen, Root: merkle.Sum(merkle.KindRoot, nil).String()}})
			must(t, err)
			must(t, l.Append(b))
			must(t, l.Close())
		} else {
			must(t, mem.Remove(gone))
		}
		must(t, r.reopened(mem, "boot"))
		said, err := r.s.RepairVolume(ctx, "a", false)
		must(t, err)
		if !slices.Contains(said.Snapshots, "unsettled") {
			t.Errorf("%s is lost, and repair does not name the snapshot: %+v", lost, said)
		}
		if said.Unknown == 0 && !within(said.Lost, 4096) {
			t.Errorf("%s is lost, and repair does not say so: %+v", lost, said)
		}
		report, err := r.s.Check(ctx, nil)
		must(t, err)
		if !report.names("a", 4096) || !report.names("a@unsettled", 4096) {
			t.Errorf("%s is lost, and check does not say so: %+v", lost, report.Damage)
		}
		done, err := r.s.RepairVolume(ctx, "a", true)
		must(t, err)
		if !slices.Equal(done.Snapshots, said.Snapshots) {
			t.Errorf("%s: said %+v, did %+v", lost, said, done)
		}
		list, err := r.s.Snapshots("a")
		must(t, err)
		if len(list) != 1 || list[0].Name != "settled" {
			t.Errorf("%s: snapshots after repair: %+v", lost, list)
		}
	}
}

// A generation that others were built on was not simply never written.
func TestEmptyGenerationBeforeOthers(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	r.write(v, randomBytes(1, 4096), 0)
	must(t, r.s.Quiet()) // nothing settles any more
	_, err := v.freeze()
	must(t, err)
	r.write(v, randomBytes(2, 4096), 4096)
	must(t, v.Flush())
	name := v.layers[0].journal.Name()
	mem := r.mem.PowerCut(rand.New(rand.NewPCG(1, 1)))
	f, err := mem.Open(name)
	must(t, err)
	forgetJournal(t, f) // the note of how many there are was not durable
	_, err = f.WriteAt(make([]byte, 4096), journal.Offset(0))
	must(t, err)
	must(t, f.Close())
	must(t, r.reopened(mem, "next boot"))
	if _, err := r.s.OpenVolume("a", "test"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("what was flushed is gone, and nobody says so: %v", err)
	}
}

// A check of a store that is closed says that, and no damage.
func TestCheckAfterClose(t *testing.T) {
	for range 20 {
		r := newRig(t, Options{})
		must(t, r.s.Close())
		if report, err := r.s.Check(context.Background(), nil); !errors.Is(err, ErrClosed) {
			t.Fatalf("check of a closed store: %v, %+v", err, report)
		}
	}
}

// What a damaged segment has is found by its content, also if that begins with a block of zeroes, as the second chunk does
// here, and the leaf of the tree.
func TestSalvageBehindZeroes(t *testing.T) {
	w := newCarryWorld(t)
	v := w.volume("a", 64<<20)
	data := randomBytes(9, 3*carryChunk)
	clear(data[carryChunk : carryChunk+disk.BlockSize])
	const at = 200 * carryChunk
	w.write(v, data, at)
	must(t, w.s.Settle(t.Context()))
	must(t, v.Close())
	must(t, w.s.Close())
	mem := w.mem.Kill()
	names, err := mem.List(segment.Dir)
	must(t, err)
	for _, n := range names {
		if strings.HasSuffix(n, ".dir") {
			flip(t, mem, segment.Dir+"/"+n, record.HeaderSize+20)
		}
	}
	must(t, w.reopened(mem, "boot"))
	wantRead(t, w.volume("a", 0), at, data)
}

// A footer that is damaged is named by each check, not by the first alone.
func TestCheckNamesFooter(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 64<<20)
	for i := range 12 {
		r.write(v, randomBytes(uint64(i+1), 1<<20), int64(i)<<20)
	}
	must(t, r.s.Settle(t.Context()))
	must(t, v.Close())
	name := ""
	for _, g := range r.s.segments.All() {
		if g.Sealed() {
			name = segment.Name(g.ID)
			flip(t, r.mem, name, g.Capacity+10)
			break
		}
	}
	for _, opening := range []string{"the store that has it open", "the next opening"} {
		for range 2 {
			report, err := r.s.Check(t.Context(), nil)
			must(t, err)
			if !slices.ContainsFunc(report.Damage, func(d Damage) bool { return d.File == name && d.Object == "segment footer" }) {
				t.Errorf("%s: check does not name %s: %+v", opening, name, report.Damage)
			}
		}
		must(t, r.reopened(r.mem.Kill(), "boot"))
	}
}

// overwrite has a file of a killed store hold p at off.
func overwrite(t *testing.T, mem *vfs.Mem, name string, p []byte, off int64) {
	t.Helper()
	f, err := mem.Open(name)
	must(t, err)
	_, err = f.WriteAt(p, off)
	must(t, err)
	must(t, f.Close())
}

// The commit that ends a generation is lost. That there are others behind it tells it from a power cut.
func TestEndOfGenerationLost(t *testing.T) {
	for _, flushed := range []bool{true, false} { // something of the generation, before
		r := newRig(t, Options{})
		v := r.volume("a", 1<<20)
		must(t, r.s.Quiet()) // nothing settles any more
		r.write(v, randomBytes(1, 4096), 0)
		if flushed {
			must(t, v.Flush())
		}
		r.write(v, randomBytes(2, 4096), 4096)
		_, err := v.freeze()
		must(t, err)
		r.write(v, randomBytes(3, 4096), 8192)
		must(t, v.Flush())
		l := v.layers[0]
		mem := r.mem.PowerCut(rand.New(rand.NewPCG(1, 1)))
		// The note of how many records there are was not durable.
		f, err := mem.Open(l.journal.Name())
		must(t, err)
		forgetJournal(t, f)
		must(t, f.Close())
		overwrite(t, mem, l.journal.Name(), make([]byte, journal.RecordSize), journal.Offset(l.journal.Count()-1))
		must(t, r.reopened(mem, "next boot"))
		if _, err := r.s.OpenVolume("a", "test"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("flushed %v: what was flushed is gone, and nobody says so: %v", flushed, err)
			continue
		}
		said, err := r.s.RepairVolume(t.Context(), "a", true)
		must(t, err)
		if !said.Done || said.Unknown == 0 || !within(said.Lost, 8192) || within(said.Lost, 0) == flushed {
			t.Errorf("flushed %v: %+v", flushed, said)
		}
		want := randomBytes(1, 4096)
		if !flushed {
			want = make([]byte, 4096)
		}
		for range 2 {
			wantRead(t, r.volume("a", 0), 0, want)
			must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(1, 2))), "the boot after"))
			r.undamaged("repaired")
		}
	}
}

// A damaged header doesn't say whether its journal counts whole, but that of the next generation does: it is kept.
func TestHeaderOfFrozenGeneration(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	must(t, r.s.Quiet())
	r.write(v, randomBytes(1, 4096), 0)
	must(t, v.Flush())
	_, err := v.freeze()
	must(t, err)
	r.write(v, randomBytes(2, 4096), 4096)
	name := v.layers[0].journal.Name()
	mem := r.mem.Kill()
	overwrite(t, mem, name, make([]byte, 512), 0)
	for range 2 {
		must(t, r.reopened(mem, "boot"))
		v = r.volume("a", 0)
		wantRead(t, v, 0, randomBytes(1, 4096))
		wantRead(t, v, 4096, randomBytes(2, 4096))
		mem = r.mem.Kill()
	}
}

// A file that has lost its name while the store has it open is good until the store is closed: check says so before.
func TestCheckNamesMissingFile(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 64<<20)
	for i := range 12 {
		r.write(v, randomBytes(uint64(i+1), 1<<20), int64(i)<<20)
	}
	must(t, r.s.Settle(t.Context()))
	must(t, r.s.Quiet())
	r.write(v, randomBytes(1, 4096), 0)
	_, err := v.freeze()
	must(t, err)
	r.write(v, randomBytes(1, 4096), 0)
	for _, dir := range []string{"refs", segment.Dir, journal.Dir, "."} {
		names, err := r.mem.List(dir)
		must(t, err)
		for _, name := range names {
			if name = strings.TrimPrefix(dir+"/"+name, "./"); dir == "." && !strings.HasPrefix(name, "superblock") {
				continue
			}
			must(t, r.mem.Rename(name, "aside"))
			report, err := r.s.Check(t.Context(), nil)
			must(t, err)
			if len(report.Damage) != 1 || report.Damage[0].File != name {
				t.Errorf("%s: check names %+v", name, report.Damage)
			}
			must(t, r.mem.Rename("aside", name))
		}
	}
	if report, err := r.s.Check(t.Context(), nil); err != nil || len(report.Damage) > 0 {
		t.Errorf("%v: check names %+v", err, report.Damage)
	}
}

// An index that can neither be read nor deleted doesn't keep the store from opening.
func TestIndexThatCantBeDeleted(t *testing.T) {
	dir := t.TempDir()
	must(t, Init(dir, InitOptions{}))
	s := openTest(t, dir, Options{})
	must(t, s.Close())
	must(t, os.WriteFile(filepath.Join(dir, IndexDir, "MANIFEST"), []byte("nothing that badger knows"), 0o600))
	stuck := filepath.Join(dir, IndexDir, "000001.sst") // as a file whose inode is lost
	must(t, os.Mkdir(stuck, 0o700))
	if err := unix.Mount("varve-test", stuck, "tmpfs", 0, ""); err != nil {
		t.Skip("no tmpfs can be mounted: ", err)
	}
	defer func() { must(t, unix.Unmount(stuck, unix.MNT_DETACH)) }()
	s, err := Open(t.Context(), dir, Options{SettleDelay: -1})
	must(t, err)
	must(t, s.Close())
}
