package objstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// evacuatorRig is an evacuator without a store, with two sealed segments of four chunks each.
type evacuatorRig struct {
	*segmentRig
	evacuator *evacuator
	from      []*segment.File
	objs      []segment.Object // of both
	retired   []uint32         // durably
	forgotten []uint32         // of these, unlinked for good
}

func newEvacuatorRig(t *testing.T) *evacuatorRig {
	t.Helper()
	r := &evacuatorRig{segmentRig: newSegmentRig(t)}
	var d fakeDisk
	d.free.Store(1 << 30)
	r.evacuator = &evacuator{
		fs: r.fs, segments: r.segments, objects: r.objects, index: r.index, sketches: r.sketches,
		readers: (*fakeReaders)(r), names: (*fakeRetirements)(r), sealer: r.sealer, recorder: r.recorder,
		stored: &r.stored, usage: &usage{fs: r.fs, segments: r.segments}, space: d.account(1<<30, 1<<20, 0),
		gate: &r.gate, log: r.log, appenders: newAppenders(r.maker.create), buf: disk.AlignedBuffer(disk.MaxChunkSize),
		pace: func(ctx context.Context, _ int64) error { return ctx.Err() },
	}
	for range 2 {
		g, objs := r.listed(4)
		must(t, r.sealer.seal(g))
		r.from = append(r.from, g)
		r.objs = append(r.objs, objs...)
	}
	r.reset()
	return r
}

// fakeReaders is the rig as the readers of the store, whose wait is a step.
type fakeReaders evacuatorRig

func (f *fakeReaders) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.step("readers")
}

// fakeRetirements is the rig as the log of names, whose record is a step.
type fakeRetirements evacuatorRig

func (f *fakeRetirements) retire(_ context.Context, ids []uint32, _ *segment.Table) error {
	if err := f.step("retire"); err != nil {
		return err
	}
	f.retired = append(f.retired, ids...)
	return nil
}

func (f *fakeRetirements) unlinked(ids []uint32) {
	f.forgotten = append(f.forgotten, ids...)
}

// wantAll fails unless files have every object in a segment that an opening would use, or did not
// find to be retired.
func (r *evacuatorRig) wantAll(what string) {
	r.t.Helper()
	left := r.mem.PowerCut(rand.New(rand.NewPCG(1, 1)))
	found := map[[32]byte]bool{}
	for id := range uint32(8) {
		if slices.Contains(r.retired, id) {
			continue
		}
		g := r.reopened(left, id)
		if g == nil {
			continue
		}
		objs, err := g.Objects()
		must(r.t, err)
		r.wantObjects(fmt.Sprintf("%s: segment %d", what, id), g, objs)
		for i := range objs {
			found[objs[i].Hash] = true
		}
	}
	for i := range r.objs {
		if !found[r.objs[i].Hash] {
			r.t.Errorf("%s: object %d is lost", what, i)
		}
	}
}

// The copies are durable and listed before anything says that the segments are retired, and that is
// durable before a file goes. Readers are waited for in between.
func TestEvacuatorOrder(t *testing.T) {
	r := newEvacuatorRig(t)
	done, err := r.evacuator.evacuate(t.Context(), r.from, alive)
	must(t, err)
	if done.segments != 2 || done.copied != 8*disk.BlockSize || done.dead != 0 {
		t.Errorf("evacuated %+v", done)
	}
	copies := "segments/00000003"
	order := []string{
		"datasync " + copies + ".seg", "datasync " + copies + ".dir", "readers", "retire", "remove " + segment.Name(1), "remove " + segment.Name(2),
	}
	last := -1
	for _, step := range order {
		at := r.first(step)
		if step == order[0] { // the first one is of its making
			at = slices.Index(r.steps, "write "+copies+".dir") - 1
			for at >= 0 && r.steps[at] != step {
				at--
			}
		}
		if at <= last {
			t.Errorf("%q is step %d, behind step %d: %q", step, at, last, r.steps)
		}
		last = at
	}
	if !slices.Equal(r.retired, []uint32{1, 2}) || !slices.Equal(r.forgotten, r.retired) {
		t.Errorf("retired %v, forgotten %v", r.retired, r.forgotten)
	}
	for i := range r.objs {
		if loc, ok := r.index.Get(&r.objs[i].Hash); !ok || loc.Segment() != 3 {
			t.Errorf("the index has object %d at %v: %v", i, loc, ok)
		}
	}
	r.wantAll("evacuated")
}

// Whichever step fails, no object is lost by a power cut then. What can be tried again, succeeds.
func TestEvacuatorFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.ENOMEM, syscall.EIO} {
		for _, again := range []bool{false, true} {
			for at := 0; ; at++ {
				r := newEvacuatorRig(t)
				reached := r.failAt(at, errno)
				_, err := r.evacuator.evacuate(t.Context(), r.from, alive)
				r.failWith(nil)
				if !reached() {
					must(t, err)
					break
				}
				what := errno.Error() + " in " + r.steps[at]
				if again && r.gate.writeError() == nil {
					what += ", and again"
					var left []*segment.File
					for _, g := range r.from {
						if r.segments.Get(g.ID) == g && g.Sealed() {
							left = append(left, g)
						}
					}
					if _, err := r.evacuator.evacuate(t.Context(), left, alive); err != nil && !errors.Is(err, errno) {
						t.Errorf("%s: %v", what, err)
					}
				}
				r.wantAll(what)
			}
		}
	}
}
