package objstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// newRigOfTwo has two volumes, of which the first one, v, has something that has not settled. Both
// are closed.
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

// A segment that was never made is a file of zeroes, and goes. One whose header has become zeroes
// is repaired; one that can't be read is named, and stays: its disk may answer again.
func TestSegmentWithoutHeader(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	v := r.volume("a", 64<<20)
	for i := range 12 {
		r.write(v, randomBytes(uint64(i+1), 1<<20), int64(i)<<20)
	}
	must(t, r.s.Settle(ctx))
	must(t, v.Close())
	must(t, r.s.Close())
	sealed := ""
	names, err := r.mem.List(segment.Dir)
	must(t, err)
	for _, n := range names {
		if n = segment.Dir + "/" + n; strings.HasSuffix(n, ".seg") && !slices.Contains(names, strings.TrimSuffix(filepath.Base(n), ".seg")+".dir") {
			f, err := r.mem.Open(n)
			must(t, err)
			b := fileBytes(t, f)
			if !disk.AllZero(b[segment.HeaderSize:]) {
				sealed = n
			}
			must(t, f.Close())
		}
	}
	if sealed == "" {
		t.Fatalf("no segment is sealed: %v", names)
	}
	unmade, err := r.mem.Create(segment.Name(4000))
	must(t, err)
	must(t, unmade.Truncate(smallestSegment))
	must(t, unmade.Close())
	named := func(repaired bool) {
		t.Helper()
		report, err := r.s.Check(ctx, nil)
		must(t, err)
		if !slices.ContainsFunc(report.Damage, func(d Damage) bool { return d.File == sealed && d.Repaired == repaired }) {
			t.Errorf("check does not name %s: %+v", sealed, report.Damage)
		}
	}
	r.o.FS = vfs.Inject(r.mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpRead && op.Name == sealed {
			return unix.EIO
		}
		return nil
	})
	r.s, err = Open(ctx, "mem", r.o)
	must(t, err)
	named(false)
	must(t, r.s.Close())
	f, err := r.mem.Open(sealed)
	must(t, err)
	_, err = f.WriteAt(make([]byte, segment.HeaderSize), 0)
	must(t, err)
	must(t, f.Close())
	r.o.FS = r.mem
	r.open(nil)
	named(true)
	v = r.volume("a", 64<<20)
	for i := range 12 {
		wantRead(t, v, int64(i)<<20, randomBytes(uint64(i+1), 1<<20))
	}
	if _, err := r.mem.Open(segment.Name(4000)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a segment that was never made: %v, want it gone", err)
	}
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

// Nor does a file without an inode, which can't be replaced or removed either, keep the store from
// opening.
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
