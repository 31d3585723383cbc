package objstore

import (
	"errors"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// An object that was only written is not found after a power cut; one that is listed is found by an
// opening, and by nothing else before it was entered.
func TestRecorderStates(t *testing.T) {
	for _, state := range []string{"written", "listed", "known"} {
		r := newSegmentRig(t)
		g, objs := r.segment(3)
		objs[2].Kind = merkle.NodeKind(1) // counted apart
		must(t, g.Sync())
		if state != "written" {
			must(t, r.recorder.list(g, objs))
		}
		var chunks, nodes int64
		if state == "known" {
			r.recorder.enter(g, objs)
			chunks, nodes = 2*disk.BlockSize, disk.BlockSize
		}
		if c, n := r.stored.chunks.Load(), r.stored.nodes.Load(); c != chunks || n != nodes {
			t.Errorf("%s: %d bytes of chunks and %d of nodes are counted, want %d and %d", state, c, n, chunks, nodes)
		}
		for i := range objs {
			if loc, ok := r.index.Get(&objs[i].Hash); ok != (state == "known") || ok && loc != segment.At(g.ID, objs[i].Block) {
				t.Errorf("%s: the index has object %d at %v: %v", state, i, loc, ok)
			}
		}
		left := r.mem.PowerCut(rand.New(rand.NewPCG(1, 1)))
		if n := r.reopened(left, g.ID).OpenCount(); (n == 3) != (state != "written") {
			t.Errorf("%s: an opening finds %d of 3 objects", state, n)
		}
	}
}

// Whichever operation of listing fails: without room or memory nothing has happened, and it can be
// done again. After any other error, and after a sync that has failed, the store is read-only.
func TestRecorderListFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.ENOMEM, syscall.EIO} {
		for at := 0; ; at++ {
			r := newSegmentRig(t)
			g, objs := r.segment(3)
			must(t, g.Sync())
			must(t, r.recorder.list(g, objs[:1]))
			r.reset()
			reached := r.failAt(at, errno)
			err := r.recorder.list(g, objs[1:])
			r.failWith(nil)
			if !reached() {
				must(t, err)
				break
			}
			what := errno.Error() + " in " + r.steps[at]
			if err == nil { // the log has tried again
				r.wantObjects(what, g, objs)
				continue
			}
			final := errno == syscall.EIO || errno == syscall.ENOMEM && strings.HasPrefix(r.steps[at], "datasync")
			r.wantReadOnly(what, final)
			if final {
				continue
			}
			if n := g.OpenCount(); n != 1 {
				t.Errorf("%s: %d objects are listed, want the one from before", what, n)
			}
			must(t, r.recorder.list(g, objs[1:]))
			r.wantObjects(what+", and again", r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(1, 1))), g.ID), objs)
		}
	}
}

// An object that could not be entered into the index counts, and the indexer is told of its segment.
func TestRecorderWithoutIndex(t *testing.T) {
	r := newSegmentRig(t)
	g, objs := r.segment(1)
	must(t, g.Sync())
	must(t, r.recorder.list(g, objs))
	r.indexFail = func() error { return syscall.EIO }
	r.recorder.enter(g, objs)
	if r.stored.total() != disk.BlockSize || r.index.has(g.ID) {
		t.Errorf("%d bytes counted; the index is said to have all of the segment: %v", r.stored.total(), r.index.has(g.ID))
	}
	r.wantReadOnly("without an index", false)
}

// What is forgotten leaves the index, unless the object was stored again elsewhere.
func TestRecorderForget(t *testing.T) {
	r := newSegmentRig(t)
	g, objs := r.listed(3)
	again, _ := r.segment(0)
	moved := objs[1]
	r.recorder.enter(again, []segment.Object{moved})
	r.recorder.forget(g, objs)
	for i := range objs {
		loc, ok := r.index.Get(&objs[i].Hash)
		if want := i == 1; ok != want || ok && loc.Segment() != again.ID {
			t.Errorf("object %d is known at %v: %v", i, loc, ok)
		}
	}
	other, objs := r.listed(1)
	r.indexFail = func() error { return errors.New("the index is broken") }
	r.recorder.forget(other, objs)
	r.wantReadOnly("with a broken index", false)
}
