package objstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

var errDamagedList = errors.New("the list is damaged")

// A punch frees what no object lies in, up to the ends of the range and no further.
func TestSealerPunch(t *testing.T) {
	r := newSegmentRig(t)
	g, objs := r.segment(8)
	listed := []segment.Object{objs[1], objs[2], objs[5]}
	before, err := r.mem.Used(segment.Name(g.ID))
	must(t, err)
	g.Used.Store(before)
	must(t, r.sealer.punch(g, int64(objs[1].Block)*disk.BlockSize, int64(objs[7].Block)*disk.BlockSize, listed))
	kept := append([]segment.Object{objs[0], objs[7]}, listed...)
	buf := disk.AlignedBuffer(disk.BlockSize)
	for _, o := range objs {
		_, err := g.Data.ReadAt(buf, int64(o.Block)*disk.BlockSize)
		must(t, err)
		zero := true
		for _, b := range buf {
			zero = zero && b == 0
		}
		if want := !slices.Contains(kept, o); zero != want {
			t.Errorf("block %d was punched: %v, want %v", o.Block, zero, want)
		}
	}
	after, err := r.mem.Used(segment.Name(g.ID))
	must(t, err)
	if before-after != 3*disk.BlockSize || g.Used.Load() != 0 {
		t.Errorf("%d bytes were freed, want three blocks; what is remembered of the size is %d", before-after, g.Used.Load())
	}
}

// An error of one hole leaves the others to be punched.
func TestSealerPunchGoesOn(t *testing.T) {
	r := newSegmentRig(t)
	g, objs := r.segment(5)
	before, err := r.mem.Used(segment.Name(g.ID))
	must(t, err)
	r.failAt(0, syscall.EOPNOTSUPP)
	if err := r.sealer.punch(g, disk.BlockSize, g.Next, objs[2:3]); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("punching answers %v", err)
	}
	after, err := r.mem.Used(segment.Name(g.ID))
	must(t, err)
	if before-after != 2*disk.BlockSize {
		t.Errorf("%d bytes were freed, want the second hole's two blocks", before-after)
	}
}

// A segment whose list is damaged is not punched, and ends in no way. The same holds, while a damaged
// volume's journal may refer to it, for one of an earlier process.
func TestSealerHolds(t *testing.T) {
	for name, c := range map[string]struct {
		damaged, inherited, refused bool
		held                        bool
	}{
		"sound":                         {},
		"damaged":                       {damaged: true, held: true},
		"of an earlier process":         {inherited: true},
		"a volume is refused":           {refused: true},
		"and it is of an earlier one":   {inherited: true, refused: true, held: true},
		"damaged and of an earlier one": {inherited: true, damaged: true, held: true},
	} {
		r := newSegmentRig(t)
		g, _ := r.segment(2)
		g.Full, g.Inherited = true, c.inherited
		r.book.hold.Store(c.refused)
		if c.damaged {
			g.SetDamage(errDamagedList)
		}
		used, err := r.mem.Used(segment.Name(g.ID))
		must(t, err)
		must(t, r.sealer.endOf(&volume{}, g))
		if gone := r.segments.Get(g.ID) == nil; gone == c.held {
			t.Errorf("%s: the segment was removed: %v", name, gone)
		}
		if !c.damaged {
			continue
		}
		must(t, r.sealer.punch(g, disk.BlockSize, g.Next, nil))
		if now, err := r.mem.Used(segment.Name(g.ID)); err != nil || now != used {
			t.Errorf("%s: %d bytes are left of %d: %v", name, now, used, err)
		}
	}
}

// An append segment ends once it is full and all of it has settled: sealed if objects are in it,
// removed if not. The volume has let go of it by then.
func TestSealerEndOf(t *testing.T) {
	for name, c := range map[string]struct {
		full      bool
		unsettled int64
		listed    bool
		want      string
	}{
		"not full":        {listed: true, want: "open"},
		"not all settled": {full: true, unsettled: 4096, listed: true, want: "open"},
		"with objects":    {full: true, listed: true, want: "sealed"},
		"without":         {full: true, want: "removed"},
	} {
		r := newSegmentRig(t)
		g, objs := r.segment(1)
		if c.listed {
			must(t, r.recorder.list(g, objs))
		}
		v := &volume{appendSegment: g, dirty: []*segment.File{g}}
		g.Full, g.Dirty = c.full, true
		g.Unsettled.Store(c.unsettled)
		for range 2 { // the second time there is nothing to do
			must(t, r.sealer.endOf(v, g))
		}
		got := "open"
		if r.segments.Get(g.ID) == nil {
			got = "removed"
		} else if g.Sealed() {
			got = "sealed"
		}
		if got != c.want {
			t.Errorf("%s: the segment is %s, want %s", name, got, c.want)
		}
		if has := v.appendSegment == g || len(v.dirty) > 0; has != (got == "open") {
			t.Errorf("%s: the volume has the segment: %v", name, has)
		}
	}
}

// Without room, memory or descriptors the segment stays open, and can be sealed later; after any other
// error the store is read-only.
func TestSealerFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.ENOMEM, syscall.EMFILE, syscall.EIO} {
		for at := 0; ; at++ {
			r := newSegmentRig(t)
			g, objs := r.listed(3)
			r.reset()
			reached := r.failAt(at, errno)
			err := r.sealer.seal(g)
			r.failWith(nil)
			if !reached() {
				must(t, err)
				break
			}
			what := errno.Error() + " in " + r.steps[at]
			final := errno == syscall.EIO || strings.HasPrefix(r.steps[at], "datasync") && errno != syscall.ENOSPC
			r.wantReadOnly(what, final)
			if final {
				continue
			}
			must(t, err)
			if !g.Sealed() && g.Unsealed.Load() == nil {
				t.Errorf("%s: nothing says why the segment is open", what)
			}
			must(t, r.sealer.seal(g))
			r.wantObjects(what+", and tried again", g, objs)
			if strings.HasPrefix(r.steps[at], "datasync") { // no later sync makes up for it: the next opening seals
				continue
			}
			if !g.Sealed() || g.Unsealed.Load() != nil {
				t.Errorf("%s: sealed at the second try: %v; what is said of that: %v", what, g.Sealed(), g.Unsealed.Load())
			}
		}
	}
}

// If a step of sealing fails, and the power goes then, an opening finds all objects.
func TestSealerCutOff(t *testing.T) {
	for at := 0; ; at++ {
		ended := false
		for cut := range uint64(4) {
			r := newSegmentRig(t)
			g, objs := r.listed(3)
			r.reset()
			reached := r.failAt(at, syscall.EIO)
			err := r.sealer.seal(g)
			left := r.mem.PowerCut(rand.New(rand.NewPCG(cut, 1)))
			if ended = !reached(); ended {
				must(t, err)
			}
			r.wantObjects(fmt.Sprintf("disk %d, cut off at operation %d", cut, at), r.reopened(left, g.ID), objs)
		}
		if ended {
			return
		}
	}
}

// What an earlier process wrote to a segment, and what is not listed, belongs to nothing: it is
// punched before the segment is sealed, unless a damaged volume's journal may still refer to it.
func TestSealerPunchesInherited(t *testing.T) {
	for _, refused := range []bool{false, true} {
		r := newSegmentRig(t)
		g, objs := r.segment(4)
		must(t, g.Sync())
		must(t, r.recorder.list(g, objs[1:3]))
		g.Inherited = true
		r.book.hold.Store(refused)
		before, err := r.mem.Used(segment.Name(g.ID))
		must(t, err)
		must(t, r.sealer.seal(g))
		after, err := r.mem.Used(segment.Name(g.ID))
		must(t, err)
		r.wantObjects("sealed", g, objs[1:3])
		if freed := before - after; !refused && freed <= 0 || refused && freed > 0 {
			t.Errorf("with a refused volume %v: %d bytes were freed", refused, freed)
		}
	}
}

// Only a segment whose objects are all in the index is marked there, or an opening would not enter
// the rest.
func TestSealerMarksInIndex(t *testing.T) {
	for _, lacks := range []bool{false, true} {
		r := newSegmentRig(t)
		g, objs := r.segment(1)
		must(t, g.Sync())
		must(t, r.recorder.list(g, objs))
		if lacks {
			r.index.lacks(g.ID)
		}
		must(t, r.sealer.seal(g))
		if done := r.entries.Done(g.ID); done == lacks {
			t.Errorf("a segment of which the index lacks objects (%v) is marked: %v", lacks, done)
		}
	}
}

// A removed segment is found nowhere. If its name can't be made to go durably, that is no loss, but
// after an error of the disk nothing is certain any more.
func TestSealerRemove(t *testing.T) {
	for errno, readOnly := range map[syscall.Errno]bool{0: false, syscall.ENOMEM: false, syscall.EIO: true} {
		r := newSegmentRig(t)
		g, _ := r.segment(1)
		if errno != 0 {
			r.failWith(errno, "syncdir")
		}
		if err := r.sealer.remove(g); (err != nil) != readOnly {
			t.Errorf("%v: %v", errno, err)
		}
		r.wantReadOnly(errno.Error(), readOnly)
		if r.segments.Get(g.ID) != nil || r.index.has(g.ID) {
			t.Errorf("%v: the segment is still known", errno)
		}
		if _, err := r.mem.Used(segment.Name(g.ID)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v: the file: %v", errno, err)
		}
	}
}

// Full segments of appenders are sealed, in order, and those removed to which nothing was listed.
// Nothing ends while the store is read-only.
func TestSealerSealFilled(t *testing.T) {
	r := newSegmentRig(t)
	var in appenders
	with, objs := r.listed(2)
	without, _ := r.segment(2)
	in.chunks.filled, in.nodes.filled = []*segment.File{with}, []*segment.File{without}
	_ = r.gate.fail(syscall.EIO)
	if err := r.sealer.sealFilled(&in); !errors.Is(err, ErrReadOnly) || with.Sealed() || len(in.chunks.filled) != 1 {
		t.Errorf("read-only: %v, sealed %v, %d segments wait", err, with.Sealed(), len(in.chunks.filled))
	}
	r.gate.failed.Store(nil)
	must(t, r.sealer.sealFilled(&in))
	r.wantObjects("sealed", with, objs)
	if !with.Sealed() || r.segments.Get(without.ID) != nil || len(in.chunks.filled)+len(in.nodes.filled) > 0 {
		t.Errorf("sealed %v, removed %v, %d segments wait", with.Sealed(), r.segments.Get(without.ID) == nil, len(in.chunks.filled)+len(in.nodes.filled))
	}
}
