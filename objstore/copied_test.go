package objstore

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"varve/objstore/index"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// copyFiles copies the files of a store that want selects over those in to, as cp does.
func copyFiles(t *testing.T, from, to string, want func(name string) bool) {
	t.Helper()
	must(t, filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		name, rerr := filepath.Rel(from, path)
		if err = errors.Join(err, rerr); err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		if !want(name) {
			return nil
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the store has removed it since it was listed
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), b, 0o600)
	}))
}

func everyFile(string) bool { return true }

func segmentFiles(name string) bool { return strings.HasPrefix(name, segment.Dir+"/") }

func otherFiles(name string) bool { return !segmentFiles(name) }

// copiedWorld is a store with a volume "a" that has a settled block of ones, and "b", which has
// settled whole.
type copiedWorld struct {
	dir  string
	s    *Store
	a, b *Volume
}

func copiedOptions() Options {
	return Options{SegmentSize: smallestSegment, SettleDelay: -1, JournalRecords: journal.MinRecords, Index: index.NewMem()}
}

func fill(b byte) []byte { return bytes.Repeat([]byte{b}, 16384) }

func newCopiedWorld(t *testing.T) *copiedWorld {
	t.Helper()
	w := &copiedWorld{dir: t.TempDir() + "/store"}
	must(t, Init(w.dir, InitOptions{}))
	w.open(t)
	for _, v := range []*Volume{w.a, w.b} {
		_, err := v.WriteAt(fill(1), 0)
		must(t, err)
	}
	must(t, w.s.Settle(t.Context()))
	return w
}

// newHalfCopiedWorld returns a world in use, and a directory to which its segments were copied
// before its last write. The other files are still to be copied.
func newHalfCopiedWorld(t *testing.T) (w *copiedWorld, dir string) {
	t.Helper()
	w, dir = newCopiedWorld(t), t.TempDir()
	w.write(t, 2, 2, true)
	copyFiles(t, w.dir, dir, segmentFiles)
	w.write(t, 1, 3, true)
	return w, dir
}

func (w *copiedWorld) open(t *testing.T) {
	t.Helper()
	w.s = openTest(t, w.dir, copiedOptions())
	t.Cleanup(func() { _ = w.s.Close() })
	for name, v := range map[string]**Volume{"a": &w.a, "b": &w.b} {
		if _, err := w.s.VolumeInfo(name); err != nil {
			_, err := w.s.CreateVolume(t.Context(), name, VolumeOptions{Size: 1 << 20})
			must(t, err)
		}
		var err error
		*v, err = w.s.OpenVolume(name, "test")
		must(t, err)
	}
}

// write puts block number i into a, flushed or not.
func (w *copiedWorld) write(t *testing.T, i int, b byte, flush bool) {
	t.Helper()
	_, err := w.a.WriteAt(fill(b), int64(i)*16384)
	must(t, err)
	if flush {
		must(t, w.a.Flush())
	}
}

// openCopy opens what was copied.
func openCopy(t *testing.T, dir string) *Store {
	t.Helper()
	s := openTest(t, dir, copiedOptions())
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// wantRefused fails the test unless volume a is refused as a copy, and b is as it was.
func wantRefused(t *testing.T, s *Store) {
	t.Helper()
	if v, err := s.OpenVolume("a", "test"); !errors.Is(err, ErrCopied) {
		if err == nil {
			b := make([]byte, 16384)
			_, err = v.ReadAt(b, 16384)
			t.Fatalf("a copy of a volume in use is opened; its block reads %#x, %v", b[0], err)
		}
		t.Fatalf("open a copied volume: %v, want %v", err, ErrCopied)
	}
	b, err := s.OpenVolume("b", "test")
	must(t, err)
	wantRead(t, b, 0, fill(1))
	must(t, b.Close())
}

func wantBlocks(t *testing.T, s *Store, want ...byte) {
	t.Helper()
	a, err := s.OpenVolume("a", "test")
	must(t, err)
	for i, b := range want {
		wantRead(t, a, int64(i)*16384, fill(b))
	}
	must(t, a.Close())
}

// A store that is copied while it is in use, the segments before the journals: what was written in
// between is in the copied journal, and its bytes are nowhere. The volume is refused, and goes back
// to what had settled.
func TestCopyOfStoreInUse(t *testing.T) {
	w, dir := newHalfCopiedWorld(t)
	copyFiles(t, w.dir, dir, otherFiles)
	s := openCopy(t, dir)
	wantRefused(t, s)
	report, err := s.Check(t.Context(), nil)
	must(t, err)
	if !slices.ContainsFunc(report.Damage, func(d Damage) bool {
		return strings.Contains(d.Error, ErrCopied.Error()) && len(d.Affects) == 1 && d.Affects[0].Volume == "a"
	}) {
		t.Errorf("check of the copy finds %+v", report.Damage)
	}
	r, err := s.RepairVolume(t.Context(), "a", false)
	must(t, err)
	if r.BackTo != "generation 1" || !slices.Equal(r.Lost, []Range{{16384, 2 * 16384}}) || !strings.Contains(r.Damage, "copied while the store was in use") {
		t.Errorf("repair would do %+v", r)
	}
	_, err = s.RepairVolume(t.Context(), "a", true)
	must(t, err)
	wantBlocks(t, s, 1, 0, 0)
	report, err = s.Check(t.Context(), nil)
	must(t, err)
	if len(report.Damage) > 0 {
		t.Errorf("check of the repaired copy finds %+v", report.Damage)
	}
	must(t, s.Close())
	s = openCopy(t, dir)
	wantBlocks(t, s, 1, 0, 0)
	wantBlocks(t, w.s, 1, 3, 2) // the original is not affected
}

// A generation that is complete is not yet one whose data the copies of the segments have.
func TestCopyOfFrozenGeneration(t *testing.T) {
	w, dir := newHalfCopiedWorld(t)
	_, err := w.s.CreateSnapshot(t.Context(), "a", "s")
	must(t, err)
	copyFiles(t, w.dir, dir, otherFiles)
	// It may have settled meanwhile: then it is the root that is not there.
	if _, err := openCopy(t, dir).OpenVolume("a", "test"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("open a copied volume: %v", err)
	}
}

// A store that was closed cleanly is copied with all that had not settled; also one that was opened
// meanwhile, from which a second copy is made.
func TestCopyOfClosedStore(t *testing.T) {
	w := newCopiedWorld(t)
	w.write(t, 1, 2, false)
	w.write(t, 2, 3, true)
	_, err := w.s.CreateSnapshot(t.Context(), "a", "s")
	must(t, err)
	w.write(t, 2, 4, false)
	must(t, w.s.Close())
	first, second := t.TempDir(), t.TempDir()
	copyFiles(t, w.dir, first, everyFile)
	s := openCopy(t, first)
	wantBlocks(t, s, 1, 2, 4)
	must(t, s.Close()) // it has not settled, and nobody has written
	copyFiles(t, first, second, everyFile)
	s = openCopy(t, second)
	wantBlocks(t, s, 1, 2, 4)
	must(t, s.Settle(t.Context()))
	view, err := s.OpenSnapshot("a", "s")
	must(t, err)
	wantRead(t, view, 2*16384, fill(3))
	must(t, view.Close())
}

// A copy that begins before the store is closed, or ends after it is opened again, is refused: its
// files do not belong to one moment.
func TestCopyAcrossCloseAndOpen(t *testing.T) {
	t.Run("close", func(t *testing.T) {
		w, dir := newHalfCopiedWorld(t)
		must(t, w.s.Close())
		copyFiles(t, w.dir, dir, otherFiles)
		wantRefused(t, openCopy(t, dir))
	})
	t.Run("open", func(t *testing.T) {
		w := newCopiedWorld(t)
		w.write(t, 1, 3, true)
		must(t, w.s.Close())
		dir := t.TempDir()
		copyFiles(t, w.dir, dir, otherFiles)
		w.open(t)
		must(t, w.s.Settle(t.Context())) // and the append segment's room is given back
		w.write(t, 2, 2, true)
		copyFiles(t, w.dir, dir, segmentFiles)
		wantRefused(t, openCopy(t, dir))
	})
	t.Run("two closes", func(t *testing.T) {
		w := newCopiedWorld(t)
		w.write(t, 2, 2, true)
		must(t, w.s.Close())
		dir := t.TempDir()
		copyFiles(t, w.dir, dir, segmentFiles)
		w.open(t)
		w.write(t, 1, 3, true)
		must(t, w.s.Close())
		copyFiles(t, w.dir, dir, otherFiles)
		s := openCopy(t, dir)
		if _, err := s.OpenVolume("a", "test"); !errors.Is(err, ErrCopied) && !errors.Is(err, ErrCorrupt) {
			t.Errorf("files of two closings: %v", err)
		}
	})
}

// The administrator says that no process had the store open: all that was acknowledged counts. Or
// that the files are from a snapshot: all that was flushed counts.
func TestAcceptCopies(t *testing.T) {
	for from, want := range map[CopiedFrom][]byte{CopiedStopped: {1, 2, 3}, CopiedSnapshot: {1, 2, 0}} {
		t.Run(string(from), func(t *testing.T) {
			w := newCopiedWorld(t)
			w.write(t, 1, 2, true)
			w.write(t, 2, 3, false)
			dir := t.TempDir()
			copyFiles(t, w.dir, dir, everyFile) // as a killed daemon leaves it: nothing is closed
			s := openCopy(t, dir)
			wantRefused(t, s)
			names, err := s.AcceptCopies(t.Context(), from)
			must(t, err)
			if !slices.Equal(names, []string{"a"}) {
				t.Errorf("accepted %q", names)
			}
			wantBlocks(t, s, want...)
			must(t, s.Close())
			s = openCopy(t, dir)
			wantBlocks(t, s, want...)
			must(t, s.Settle(t.Context()))
			wantBlocks(t, s, want...)
			if names, err := s.AcceptCopies(t.Context(), from); err != nil || len(names) > 0 {
				t.Errorf("the second time: %q, %v", names, err)
			}
		})
	}
	w := newCopiedWorld(t)
	if _, err := w.s.AcceptCopies(t.Context(), "elsewhere"); !errors.Is(err, ErrInvalid) {
		t.Errorf("copied from elsewhere: %v", err)
	}
}

// The disk was mounted anew in the same boot, or is a snapshot of the one that was: a device that
// waits for a server may rely on what was not flushed, or not.
func TestContestedJournal(t *testing.T) {
	yes := func(uuid.UUID, ...string) bool { return true }
	for _, c := range []struct {
		name  string
		flush bool
		from  CopiedFrom
		want  []byte
	}{
		{"remounted", false, CopiedStopped, []byte{1, 2, 3}},
		{"snapshot", false, CopiedSnapshot, []byte{1, 2, 0}},
		{"all flushed", true, "", []byte{1, 2, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			v := r.volume("a", 1<<20)
			r.write(r.volume("b", 1<<20), fill(1), 0)
			r.write(v, fill(1), 0)
			must(t, r.s.Settle(t.Context()))
			r.write(v, fill(2), 16384)
			must(t, v.Flush())
			r.write(v, fill(3), 2*16384)
			if c.flush {
				must(t, v.Flush())
			}
			r.o.Mount, r.o.Contested = "another", yes
			must(t, r.reopened(r.mem.Kill(), "boot"))
			if c.from != "" {
				wantRefused(t, r.s)
				_, err := r.s.AcceptCopies(t.Context(), c.from)
				must(t, err)
			}
			wantBlocks(t, r.s, c.want...)
		})
	}
}

// A journal of an older version does not say which file it was written to, and counts as it did.
func TestJournalOfOlderVersion(t *testing.T) {
	w := newCopiedWorld(t)
	w.write(t, 1, 2, true)
	dir := t.TempDir()
	copyFiles(t, w.dir, dir, everyFile)
	list, err := filepath.Glob(filepath.Join(dir, journal.Dir, "*"))
	must(t, err)
	for _, name := range list {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		must(t, err)
		forgetJournal(t, f)
		must(t, f.Close())
	}
	s := openCopy(t, dir)
	wantBlocks(t, s, 1, 2)
}

// What an opening has decided stays so in a copy: writes that were not flushed, and that it has
// left out, do not come back because somebody says that the store was copied when nobody had it
// open.
func TestCopyOfRecoveredStore(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	r.write(v, fill(1), 0)
	must(t, v.Flush())
	r.write(v, fill(2), 0)
	r.mem, r.o.Mount = r.mem.Kill(), "mounted anew"
	r.open(nil)
	v = r.volume("a", 0)
	wantRead(t, v, 0, fill(1))
	r.write(v, fill(3), 32<<10)
	r.mem = r.mem.Kill()
	r.mem.Move()
	r.open(nil)
	names, err := r.s.AcceptCopies(t.Context(), CopiedStopped)
	must(t, err)
	if !slices.Equal(names, []string{"a"}) {
		t.Fatalf("accepted %v, want a", names)
	}
	v = r.volume("a", 0)
	wantRead(t, v, 0, fill(1))
	wantRead(t, v, 32<<10, fill(3))
}

// A journal that is dropped on somebody's word does not come back with a power cut, and with it the
// question.
func TestDroppedJournalOfCopy(t *testing.T) {
	r := newRig(t, Options{})
	r.write(r.volume("a", 1<<20), fill(1), 0) // and no flush
	r.mem = r.mem.Kill()
	r.mem.Move()
	r.open(nil)
	_, err := r.s.AcceptCopies(t.Context(), CopiedSnapshot)
	must(t, err)
	r.write(r.volume("a", 0), fill(2), 32<<10)
	cut := r.mem
	for disk := range uint64(20) {
		must(t, r.reopened(cut.PowerCut(newRand(disk)), "next boot"))
		v, err := r.s.OpenVolume("a", "test")
		if err != nil {
			t.Fatalf("disk %d: %v", disk, err)
		}
		wantRead(t, v, 0, make([]byte, 16384))
	}
}

// The files of a store that was closed are copied, or moved to another disk, and its first opening
// there ends too early, at any operation: the next one comes to the same.
func TestEveryCutOfOpeningOfCopy(t *testing.T) {
	r := newRig(t, Options{})
	want := map[string][]byte{}
	for i, name := range []string{"a", "b"} {
		v := r.volume(name, 1<<20)
		want[name] = randomBytes(uint64(i), 64<<10)
		r.write(v, want[name][:32<<10], 0)
		must(t, r.s.Quiesce()) // two generations wait to settle, in one segment
		_, err := v.freeze()
		must(t, err)
		r.write(v, want[name][32<<10:], 32<<10)
		must(t, v.Close())
		r.s.Resume()
	}
	must(t, r.s.Quiesce())
	must(t, r.s.Close())
	closed := r.mem.Kill()
	closed.Move()
	for n := int64(0); ; n++ {
		mem := closed.Kill()
		mem.CutAt(n)
		o := r.o
		o.FS, o.Index, o.Boot = mem, index.NewMem(), "boot there"
		if s, err := Open(t.Context(), "mem", o); err == nil {
			_ = s.Close()
		}
		met := mem.WasCut()
		for kind, mem := range map[string]*vfs.Mem{"kill": mem.Kill(), "power cut": mem.PowerCut(newRand(uint64(n)))} {
			if kind == "power cut" {
				o.Boot = "next boot"
			}
			o.FS, o.Index = mem, index.NewMem()
			s, err := Open(t.Context(), "mem", o)
			if err != nil {
				t.Fatalf("%s at operation %d: %v", kind, n, err)
			}
			for name, p := range want {
				v, err := s.OpenVolume(name, "test")
				if err != nil {
					t.Fatalf("%s at operation %d: %v", kind, n, err)
				}
				wantRead(t, v, 0, p)
				must(t, v.Close())
			}
			must(t, s.Close())
		}
		if !met {
			break
		}
	}
}
