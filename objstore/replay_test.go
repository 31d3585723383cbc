package objstore

import (
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
)

// replayRig is a replayer with two volumes, as an opening has them before it replays: each has two
// journals, with a write of a block each.
type replayRig struct {
	*segmentRig
	replayer *replayer
	volumes  map[uuid.UUID]*volume
	a, b     *volume
}

func newReplayRig(t *testing.T) *replayRig {
	t.Helper()
	r := &replayRig{segmentRig: newSegmentRig(t), volumes: map[uuid.UUID]*volume{}}
	leaves := &leafCache{
		objects: r.objects, segments: r.segments, lookups: r.pins, images: func() []sweeper { return nil }, limit: 100, log: r.log, life: t.Context(),
	}
	var d fakeDisk
	origin := journal.Origin{Boot: "boot", Mount: "mount"}
	r.replayer = &replayer{
		fs: r.fs, store: r.store, chunkSize: rigChunk, origin: origin, segments: r.segments, book: r.book, log: r.log,
		snapshotsOf: func(*volume) []*refs.Snapshot { return nil }, space: d.account(1<<30, 1<<20, 0),
	}
	for _, name := range []string{"a", "b"} {
		ref := &refs.Volume{ID: uuid.New(), Name: name, Size: 1 << 20}
		v := &volume{ref: ref, base: newBase(leaves, merkle.EmptyRoot(ref.Size, rigChunk)), pin: segment.NewPin()}
		v.name.Store(&ref.Name)
		v.size.Store(ref.Size)
		r.volumes[ref.ID] = v
		g, objs := r.segment(2)
		must(t, g.Sync())
		for gen := range uint64(2) {
			j, err := journal.Create(r.fs, journal.ID{Store: r.store, Volume: ref.ID, Gen: gen + 1}, origin, 1024)
			must(t, err)
			must(t, j.Link(r.fs))
			must(t, j.Extend(new(sync.Mutex), 1))
			must(t, j.Append(&journal.Record{
				Type: journal.Data, Sector: gen * 8, Count: 8, Segment: g.ID, Block: objs[gen].Block,
			}))
			must(t, j.Sync())
			j.Close()
		}
		if r.b = v; name == "a" {
			r.a = v
		}
	}
	r.reset()
	return r
}

// wantLayers fails unless a volume has so many layers, and what it counts of them fits.
func (r *replayRig) wantLayers(what string, v *volume, n int) {
	r.t.Helper()
	if len(v.layers) != n || v.tail != int64(n)*disk.BlockSize {
		r.t.Errorf("%s: volume %s has %d layers of %d bytes, want %d", what, v.Name(), len(v.layers), v.tail, n)
	}
}

// Journals become layers, oldest first, whose data is accounted for. They are durable by then.
func TestReplay(t *testing.T) {
	r := newReplayRig(t)
	must(t, r.replayer.replayJournals(t.Context(), r.volumes))
	for _, v := range r.volumes {
		r.wantLayers("replayed", v, 2)
		for i, l := range v.layers {
			if l.gen != uint64(i+1) || l.bytes != disk.BlockSize {
				t.Errorf("layer %d is generation %d with %d bytes", i, l.gen, l.bytes)
			}
		}
	}
	for _, g := range r.segments.All() {
		if n := g.Unsettled.Load(); n != 2*disk.BlockSize {
			t.Errorf("%d bytes of segment %d are unsettled", n, g.ID)
		}
		data, _, _ := strings.Cut(segment.Name(g.ID), ".")
		if sync := r.first("datasync " + data); sync < 0 {
			t.Errorf("the data of %s was not synced", data)
		}
	}
	if n := r.replayer.space.tails.Load(); n != 4*disk.BlockSize {
		t.Errorf("%d bytes of tails are counted", n)
	}
}

// The data is durable before its journal is finished: after that it counts in any case.
func TestReplayOrder(t *testing.T) {
	r := newReplayRig(t)
	must(t, r.replayer.replayJournals(t.Context(), map[uuid.UUID]*volume{r.a.ref.ID: r.a}))
	data, finish := r.first("datasync "+segment.Dir), r.first("write "+journal.Name(r.a.ref.ID, 1))
	if data < 0 || finish < data {
		t.Errorf("the data is synced at step %d, and the journal written at %d", data, finish)
	}
}

// If any operation fails, a volume has all of its layers or none, and can be replayed by the next
// opening.
func TestReplayFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		for at := 0; ; at++ {
			r := newReplayRig(t)
			only := map[uuid.UUID]*volume{r.a.ref.ID: r.a}
			reached := r.failAt(at, errno)
			err := r.replayer.replayJournals(t.Context(), only)
			r.failWith(nil)
			if !reached() {
				must(t, err)
				break
			}
			what := errno.Error() + " in " + r.steps[at]
			if n := len(r.a.layers); n == 1 || n == 2 && r.a.damageError() != nil {
				t.Errorf("%s: %d of 2 layers", what, n)
			}
			if len(r.a.layers) == 0 {
				r.wantLayers(what, r.a, 0)
				if n := r.replayer.space.tails.Load(); n != 0 {
					t.Errorf("%s: %d bytes of tails are counted, and there is no layer", what, n)
				}
			}
			if err == nil && r.a.damageError() == nil {
				r.wantLayers(what, r.a, 2)
			}
		}
	}
}

// A damaged journal refuses its volume and changes none of its files. The other volume is replayed.
func TestReplayDamaged(t *testing.T) {
	r := newReplayRig(t)
	name := journal.Name(r.a.ref.ID, 1)
	must(t, r.mem.Remove(name)) // generation 2 has records: a generation before it is missing
	must(t, r.replayer.replayJournals(t.Context(), r.volumes))
	if r.a.damageError() == nil || !r.book.hold.Load() {
		t.Errorf("the volume is refused with %v; segments are held: %v", r.a.damageError(), r.book.hold.Load())
	}
	r.wantLayers("damaged", r.a, 0)
	r.wantLayers("beside a damaged one", r.b, 2)
	if second := journal.Name(r.a.ref.ID, 2); r.first("write "+second) >= 0 || r.first("remove "+second) >= 0 || !r.exists(second) {
		t.Error("a journal behind the damage was changed")
	}
}

// A volume whose data can't be made durable trusts none of it any more: the next opening must not
// count it only because its sync succeeds.
func TestReplayAfterFailedSync(t *testing.T) {
	r := newReplayRig(t)
	only := map[uuid.UUID]*volume{r.a.ref.ID: r.a}
	r.failWith(syscall.EIO, "datasync "+segment.Dir)
	if err := r.replayer.replayJournals(t.Context(), only); !errors.Is(err, errNotSynced) {
		t.Fatalf("a failed sync: %v", err)
	}
	r.wantLayers("a failed sync", r.a, 0)
	next := &replayRig{segmentRig: segmentRigOn(t, r.mem.Kill(), r.store)}
	p := *r.replayer
	p.fs, p.segments, p.book = next.fs, r.segments, next.book
	must(t, p.replayJournals(t.Context(), only))
	if n := len(r.a.layers); n != 0 {
		t.Errorf("%d layers of data that was never durable count", n)
	}
}
