package objstore

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// opener returns the segmentOpener of a store that knows of no names.
func (r *segmentRig) opener() *segmentOpener {
	names := newCatalog()
	names.refs = refs.NewState(rigChunk)
	return &segmentOpener{
		fs: r.fs, store: r.store, names: names, segments: r.segments, stored: &r.stored, sealer: r.sealer, book: r.book, log: r.log,
	}
}

// leftBehind makes segments in the three states in which a process can leave one (sealed, open with
// objects, empty), and returns a rig on their files, as after its death.
func leftBehind(t *testing.T) (r *segmentRig, sealed, open, empty uint32, objs map[uint32][]segment.Object) {
	t.Helper()
	was := newSegmentRig(t)
	objs = map[uint32][]segment.Object{}
	for i := range 3 {
		g, all := was.segment(2)
		must(t, g.Sync())
		if i < 2 {
			must(t, was.recorder.list(g, all))
			objs[g.ID] = all
		}
		if i == 0 {
			must(t, was.sealer.seal(g))
		}
	}
	return segmentRigOn(t, was.mem.Kill(), was.store), 1, 2, 3, objs
}

func (r *segmentRig) exists(name string) bool {
	r.t.Helper()
	_, err := r.mem.Used(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	return err == nil
}

// What an earlier process has left is opened, counted, and ended: sealed with its objects, or removed
// if it holds none. New segments get higher numbers.
func TestSegmentOpener(t *testing.T) {
	r, sealed, open, empty, objs := leftBehind(t)
	o := r.opener()
	must(t, o.open(t.Context()))
	if n := len(r.segments.All()); n != 3 || r.stored.total() != 4*disk.BlockSize || o.names.nextSegment != 4 {
		t.Errorf("%d segments with %d bytes of objects; the next one is %d", n, r.stored.total(), o.names.nextSegment)
	}
	must(t, o.sweep(t.Context()))
	for _, id := range []uint32{sealed, open} {
		g := r.segments.Get(id)
		r.wantObjects("swept", g, objs[id])
		if !g.Sealed() {
			t.Errorf("segment %d is open", id)
		}
	}
	if r.segments.Get(empty) != nil || r.exists(segment.Name(empty)) {
		t.Error("the empty segment is still there")
	}
	if len(r.book.losses)+len(r.book.repairs)+len(r.book.strays) > 0 {
		t.Errorf("taken for damage: %v %v %v", r.book.losses, r.book.repairs, r.book.strays)
	}
}

// Whichever operation fails, or is the last before a power cut, the next opening finds all objects.
func TestSegmentOpenerFails(t *testing.T) {
	for at := 0; ; at++ {
		r, sealed, open, _, objs := leftBehind(t)
		reached := r.failAt(at, syscall.EIO)
		o := r.opener()
		err := o.open(t.Context())
		if err == nil {
			err = o.sweep(t.Context())
		}
		if !reached() {
			must(t, err)
			return
		}
		next := segmentRigOn(t, r.mem.Kill(), r.store)
		o = next.opener()
		must(t, o.open(t.Context()))
		must(t, o.sweep(t.Context()))
		for _, id := range []uint32{sealed, open} {
			next.wantObjects("after "+r.steps[at]+" failed", next.segments.Get(id), objs[id])
		}
		if len(next.book.losses) > 0 {
			t.Errorf("after %s failed: lost %v", r.steps[at], next.book.losses)
		}
	}
}

// Damage, a missing file and foreign ones concern no other segment, and are noted; a foreign file
// stays. Retired segments and drafts of object logs are removed.
func TestSegmentOpenerFindsDamage(t *testing.T) {
	for name, c := range map[string]struct {
		spoil   func(r *segmentRig, names *catalog)
		losses  int
		strays  int
		damaged bool // segment 2 is there, and its list can't be relied on
		missing bool // segment 2 is not there
	}{
		"the segment is missing, its log is there": {
			spoil: func(r *segmentRig, _ *catalog) { must(r.t, r.mem.Remove(segment.Name(2))) }, losses: 1, missing: true,
		},
		"both are missing, and refs know of them": {
			spoil: func(r *segmentRig, names *catalog) {
				must(r.t, r.mem.Remove(segment.Name(2)))
				must(r.t, r.mem.Remove(segment.ObjectLogName(2)))
				names.refs.ObjectLogs = map[uint32]int64{2: 100}
			}, losses: 1, missing: true,
		},
		"the log is missing, and refs know of it": {
			spoil: func(r *segmentRig, names *catalog) {
				must(r.t, r.mem.Remove(segment.ObjectLogName(2)))
				names.refs.ObjectLogs = map[uint32]int64{2: 100}
			}, losses: 1, damaged: true,
		},
		"the log is shorter than refs know": {
			spoil: func(_ *segmentRig, names *catalog) { names.refs.ObjectLogs = map[uint32]int64{2: 1 << 20} }, losses: 1, damaged: true,
		},
		"the segment can't be opened": {
			spoil: func(r *segmentRig, _ *catalog) { r.failWith(syscall.EIO, "open "+segment.Name(2)) }, losses: 1, missing: true,
		},
		"it is retired": {
			spoil: func(_ *segmentRig, names *catalog) { names.refs.Retired[2] = true }, missing: true,
		},
		"foreign files": {
			spoil: func(r *segmentRig, _ *catalog) {
				for _, n := range []string{"2.seg", "notes.txt"} {
					createEmpty(r.t, r.mem, segment.Dir+"/"+n)
				}
				createEmpty(r.t, r.mem, segment.DraftName(2))
			}, strays: 2,
		},
	} {
		r, sealed, _, _, objs := leftBehind(t)
		o := r.opener()
		c.spoil(r, o.names)
		must(t, o.open(t.Context()))
		r.failWith(nil)
		must(t, o.sweep(t.Context()))
		r.wantObjects(name, r.segments.Get(sealed), objs[sealed])
		if len(r.book.losses) != c.losses || len(r.book.strays) != c.strays {
			t.Errorf("%s: lost %v, foreign %v", name, r.book.losses, r.book.strays)
		}
		g := r.segments.Get(2)
		if (g == nil) != c.missing || g != nil && g.Damaged() != c.damaged {
			t.Errorf("%s: segment 2 is %+v", name, g)
		}
		if c.damaged && (g.Sealed() || !r.exists(segment.Name(2))) {
			t.Errorf("%s: the damaged segment was ended", name)
		}
		if c.strays > 0 && (!r.exists(segment.Dir+"/notes.txt") || r.exists(segment.DraftName(2))) {
			t.Errorf("%s: a foreign file is gone, or a draft is there", name)
		}
		if name == "it is retired" && slices.ContainsFunc([]string{segment.Name(2), segment.ObjectLogName(2)}, r.exists) {
			t.Errorf("%s: its files are there", name)
		}
	}
}

func createEmpty(t *testing.T, mem *vfs.Mem, name string) {
	t.Helper()
	f, err := mem.Create(name)
	must(t, err)
	must(t, f.Close())
}

// An empty segment loses its object log before its file: the log alone would be damage.
func TestSegmentOpenerRemovesLogFirst(t *testing.T) {
	was := newSegmentRig(t)
	g, _ := was.segment(0)
	must(t, was.recorder.list(g, nil))
	r := segmentRigOn(t, was.mem.Kill(), was.store)
	o := r.opener()
	must(t, o.open(t.Context()))
	r.reset()
	must(t, o.sweep(t.Context()))
	log, file := r.first("remove "+segment.ObjectLogName(g.ID)), r.first("remove "+segment.Name(g.ID))
	if log < 0 || file < log {
		t.Errorf("the log is removed at step %d, the segment at %d: %s", log, file, strings.Join(r.steps, ", "))
	}
}
