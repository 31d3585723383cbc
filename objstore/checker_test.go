package objstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// checkRig is the part of a check that reads segments, without a store: two sealed segments of two
// chunks each.
type checkRig struct {
	*segmentRig
	segs   []*segment.File
	objs   [][]segment.Object
	upkeep *upkeep
	lookup segment.Pins
}

func newCheckRig(t *testing.T) *checkRig {
	t.Helper()
	r := &checkRig{segmentRig: newSegmentRig(t)}
	for range 2 {
		g, objs := r.listed(2)
		must(t, r.sealer.seal(g))
		r.segs, r.objs = append(r.segs, g), append(r.objs, objs)
	}
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	r.upkeep = &upkeep{
		fs: r.fs, store: r.store, segments: r.segments, log: r.log,
		now: func() time.Time { return at }, uptime: func() time.Duration { return 0 },
	}
	r.upkeep.open()
	return r
}

// check reads the segments, as round 7.
func (r *checkRig) check(ctx context.Context) (*checker, error) {
	c := newChecker(ctx, checkDeps{
		fs: r.fs, store: r.store, catalog: newCatalog(), book: r.book, segments: r.segments, objects: r.objects,
		lookups: &r.lookup, upkeep: r.upkeep,
	}, CheckOptions{}, scope{todo: r.segs, round: 7, share: 1}, r.stored.total())
	return c, c.segments()
}

// spoil flips a bit of an object.
func (r *checkRig) spoil(seg, obj int) {
	r.t.Helper()
	flip(r.t, r.mem, segment.Name(r.segs[seg].ID), int64(r.objs[seg][obj].Block)*disk.BlockSize+17)
}

// Every object is read, and every segment noted as verified.
func TestCheckerReadsSegments(t *testing.T) {
	r := newCheckRig(t)
	c, err := r.check(t.Context())
	must(t, err)
	if c.report.Objects != 4 || c.report.Bytes != 4*disk.BlockSize || c.report.Segments != 2 || len(c.report.Damage) > 0 {
		t.Errorf("of two good segments: %+v", c.report)
	}
	for _, g := range r.segs {
		if v := r.upkeep.verified[g.ID]; v.round != 7 || v.damaged {
			t.Errorf("segment %d is noted as %+v", g.ID, v)
		}
	}
}

// Damage is named by file and offset, its location is quarantined, and its segment noted. If the
// object has a good copy in another segment, no image is affected.
func TestCheckerFindsRot(t *testing.T) {
	for _, copied := range []bool{false, true} {
		r := newCheckRig(t)
		bad := r.objs[0][1]
		if copied {
			g, _ := r.segment(0)
			p := disk.AlignedBuffer(disk.BlockSize)
			_, err := r.segs[0].Data.ReadAt(p, int64(bad.Block)*disk.BlockSize)
			must(t, err)
			must(t, disk.WriteAligned(g.Data, p, g.Next))
			again := bad
			again.Block = uint32(g.Next / disk.BlockSize)
			must(t, g.Sync())
			must(t, r.recorder.list(g, []segment.Object{again}))
		}
		r.spoil(0, 1)
		c, err := r.check(t.Context())
		must(t, err)
		if len(c.report.Damage) != 1 {
			t.Fatalf("damage: %+v", c.report.Damage)
		}
		if d := c.report.Damage[0]; d.File != segment.Name(r.segs[0].ID) || d.Offset != int64(bad.Block)*disk.BlockSize {
			t.Errorf("the damage is said to be at %s:%d", d.File, d.Offset)
		}
		if !r.objects.Quarantine.Quarantined(segment.At(r.segs[0].ID, bad.Block)) {
			t.Error("the location is not quarantined")
		}
		if _, affects := c.objects[objectID{bad.Hash, merkle.KindChunk}]; affects == copied {
			t.Errorf("with a good copy %v, images are affected: %v", copied, affects)
		}
		if first, second := r.upkeep.verified[r.segs[0].ID], r.upkeep.verified[r.segs[1].ID]; !first.damaged || second.damaged {
			t.Errorf("noted are %+v and %+v", first, second)
		}
	}
}

// A segment that was retired since the check began is no damage.
func TestCheckerSkipsRetired(t *testing.T) {
	r := newCheckRig(t)
	r.segments.Remove(r.segs[0].ID)
	must(t, r.segs[0].Close())
	must(t, r.mem.Remove(segment.Name(r.segs[0].ID)))
	c, err := r.check(t.Context())
	must(t, err)
	if c.report.Objects != 2 || len(c.report.Damage) > 0 {
		t.Errorf("with a retired segment: %+v", c.report)
	}
}

// A check ends with its context, and has noted what it verified until then.
func TestCheckerEnds(t *testing.T) {
	r := newCheckRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.failWith(nil)
	r.mu.Lock()
	r.fails = func(step string) error {
		if step == "read "+segment.Name(r.segs[1].ID) {
			cancel()
		}
		return nil
	}
	r.mu.Unlock()
	if _, err := r.check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a check that was cancelled: %v", err)
	}
	first, second := r.upkeep.verified[r.segs[0].ID], r.upkeep.verified[r.segs[1].ID]
	if first.round != 7 || second.round != 0 {
		t.Errorf("noted are %+v and %+v", first, second)
	}
}
