package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/extent"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// layerRig is a layerSettler without a store, and a volume with one frozen layer: two chunks that
// lie whole in the append segment, and one that was written in part and so has to be copied. The
// rig notes the steps of a settling in their order, and can have each of them fail.
type layerRig struct {
	*layerSettler
	t     *testing.T
	mem   *vfs.Mem
	gate  fakeGate
	v     *volume
	data  []byte // what the volume holds
	looks int    // how often the settling gave way
	pause func() error

	mu       sync.Mutex
	steps    []string
	before   func(step string) error // called before a step; an error fails it
	recorded []segment.Object
	barrier  fakeBarrier
	heads    []refs.Record
	punched  []slots
	dead     int // layers that were handed to the reclaimer
}

const rigChunk = 4096

func newLayerRig(t *testing.T) *layerRig {
	r := &layerRig{t: t, mem: vfs.NewMem(0), pause: func() error { return nil }}
	must(t, r.mem.Mkdir(segment.Dir))
	must(t, r.mem.Mkdir(journal.Dir))
	must(t, r.mem.SyncDir("."))
	fs := vfs.Inject(r.mem, func(op vfs.Op) error { return r.step(op.Kind.String() + " " + op.Name) })
	log := slog.New(slog.DiscardHandler)
	segments, lookups, id := new(segment.Table), new(segment.Pins), uuid.New()
	ix := newStoreIndex(&steppedIndex{index.NewMem(), r})
	objects := object.NewReader(object.Options{
		Segments: segments, Footers: segment.NewFooterCache(1 << 20), Sketches: new(segment.Sketches),
		Index: objectIndex{ix, func([]object.Found) {}}, Pins: lookups, Logger: log, ChunkSize: rigChunk,
	})
	next := uint32(0)
	maker := &segmentMaker{
		fs: fs, size: smallestSegment, store: id, segments: segments, index: ix, gate: &r.gate, log: log,
		newID: func(context.Context) (uint32, error) { next++; return next, nil },
	}
	var disk fakeDisk
	r.layerSettler = &layerSettler{
		segments: segments, index: ix, objects: objects, lookups: lookups,
		cache: &leafCache{objects: objects, segments: segments, lookups: lookups, images: func() []sweeper { return nil }, limit: 100, log: log, life: t.Context()},
		heads: (*fakeHeads)(r), barrier: &r.barrier, gate: &r.gate, space: disk.account(1<<30, 1<<20, 0), appenders: newAppenders(maker.create),
		recorder: &recorder{
			fs: fs, store: id, index: ix, objects: objects, gate: &r.gate, log: log,
			count: func(o *segment.Object) { r.mu.Lock(); defer r.mu.Unlock(); r.recorded = append(r.recorded, *o) },
		},
		giveWay: func(context.Context, *volume, int) error { r.looks++; return r.pause() },
		punch: func(g *segment.File, from, to int64) {
			r.punched = append(r.punched, slots{g.ID, from, to})
			_ = g.Data.Punch(from, to-from) // an error is one of a power cut
		},
		dead: func(*volume, *layer) reclaimable {
			r.dead++
			item := &fakeItem{may: make(chan struct{})}
			close(item.may)
			return item
		},
		reclaimer: newReclaimer(log, func() time.Duration { return 0 }, func() {}), log: log,
	}
	r.makeVolume(maker)
	r.steps = nil
	return r
}

// makeVolume makes the volume, whose base is all zeroes, and its layer.
func (r *layerRig) makeVolume(maker *segmentMaker) {
	t, size := r.t, int64(1<<20)
	root := merkle.EmptyRoot(size, rigChunk)
	r.objects.Deepen(root.Depth)
	ref := &refs.Volume{ID: uuid.New(), Name: "v", Size: size}
	r.v = &volume{ref: ref, base: newBase(r.cache, root), pin: segment.NewPin()}
	r.v.name.Store(&ref.Name)
	r.v.size.Store(size)
	g, err := maker.create(t.Context())
	must(t, err)
	j, err := journal.Create(r.mem, journal.ID{Store: r.recorder.store, Volume: ref.ID, Gen: 1}, journal.Origin{}, 1024)
	must(t, err)
	l := newLayer(1, j)
	r.data = make([]byte, size)
	write := func(off int64, data []byte) {
		copy(r.data[off:], data)
		at := g.Next
		g.Next += disk.RoundUp(int64(len(data)), disk.BlockSize)
		buf := disk.AlignedBuffer(int(g.Next - at))
		copy(buf, data)
		must(t, disk.WriteAligned(g.Data, buf, at))
		n := uint64(len(data)) / SectorSize
		l.insert(extent.Extent{End: uint64(off)/SectorSize + n, Sectors: n, File: uint64(at) / SectorSize, Segment: g.ID})
		l.hand(g.ID, at, g.Next)
		l.bytes += int64(len(data))
	}
	write(0, randomBytes(1, 2*rigChunk))
	write(10*rigChunk+512, randomBytes(2, 512))
	r.v.layers, r.v.tail = []*layer{l}, l.bytes
	r.space.commit(l.bytes, 0)
}

// step notes a step, and returns the error with which it is to fail.
func (r *layerRig) step(what string) error {
	r.mu.Lock()
	r.steps = append(r.steps, what)
	before := r.before
	r.mu.Unlock()
	if before != nil {
		return before(what)
	}
	return nil
}

// position returns the place of the first, or else the last step whose name has a prefix and a
// suffix; -1: there is none.
func (r *layerRig) position(last bool, prefix, suffix string) int {
	found := -1
	for i, s := range r.steps {
		if strings.HasPrefix(s, prefix) && strings.HasSuffix(s, suffix) && (found < 0 || last) {
			found = i
		}
	}
	return found
}

// wantUnsettled fails if anything of a settling took effect.
func (r *layerRig) wantUnsettled(what string) {
	r.t.Helper()
	if len(r.v.layers) != 1 || r.v.baseGen != 0 || !r.v.base.root.Top.IsZero() || r.dead > 0 || r.space.tails.Load() != r.v.tail {
		r.t.Errorf("%s: %d layers, a base of generation %d, %d layers to be reclaimed, %d bytes of tails", what,
			len(r.v.layers), r.v.baseGen, r.dead, r.space.tails.Load())
	}
}

// wantSettled fails unless the layer has become the volume's base, and reads what was written.
func (r *layerRig) wantSettled(what string) {
	r.t.Helper()
	if len(r.v.layers) != 0 || r.v.baseGen != 1 || r.dead != 1 || r.space.tails.Load() != 0 || len(r.heads) != 1 {
		r.t.Fatalf("%s: %d layers, a base of generation %d, %d layers to be reclaimed, %d bytes of tails, %d heads", what,
			len(r.v.layers), r.v.baseGen, r.dead, r.space.tails.Load(), len(r.heads))
	}
	must(r.t, r.cache.load(r.t.Context(), &r.v.mu, func() *base { return r.v.base }, 0, int64(len(r.data))))
	var p Plan
	must(r.t, planLayers(nil, r.v.base, &p, 0, uint64(len(r.data))/SectorSize))
	got := disk.AlignedBuffer(len(r.data))
	must(r.t, readPieces(&p, got))
	if !bytes.Equal(got, r.data) {
		r.t.Errorf("%s: the base reads other bytes than were written", what)
	}
	if r.heads[0].Root != r.v.base.id.String() || r.heads[0].Logical != 3*rigChunk {
		r.t.Errorf("%s: the head is %+v", what, r.heads[0])
	}
}

// wantDurable fails if the index knows something that is not in the files that a power cut has left.
func (r *layerRig) wantDurable(what string, left *vfs.Mem) {
	r.t.Helper()
	for _, o := range r.recorded {
		loc, ok := r.index.Get(&o.Hash)
		if !ok {
			continue
		}
		buf := disk.AlignedBuffer(int(disk.RoundUp(int64(o.Length), disk.BlockSize)))
		f, err := left.Open(segment.Name(loc.Segment()))
		if err == nil {
			_, err = f.ReadAt(buf, loc.Offset())
			f.Close()
		}
		if err == nil && merkle.Sum(o.Kind, buf[:o.Length]) != o.Hash {
			err = errOtherBytes
		}
		if err != nil {
			r.t.Errorf("%s: the index knows a %v in %s that is not there: %v", what, o.Kind, segment.Name(loc.Segment()), err)
		}
	}
}

// fakeBarrier notes what settlings keep.
type fakeBarrier struct {
	running int
	kept    map[merkle.Hash]bool
	died    int64
}

func (b *fakeBarrier) settle() (ended func()) { b.running++; return func() { b.running-- } }

func (b *fakeBarrier) keep(h *merkle.Hash) {
	if b.kept == nil {
		b.kept = map[merkle.Hash]bool{}
	}
	b.kept[*h] = true
}

func (b *fakeBarrier) mayHaveDied(n int64) { b.died += n }

func (r *layerRig) end() { r.reclaimer.stop() }

// fakeHeads is the rig as heads.
type fakeHeads layerRig

func (h *fakeHeads) publish(ctx context.Context, _ *volume, head *refs.Record, may func() error, took func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := may(); err != nil {
		return err
	}
	if err := (*layerRig)(h).step("publish"); err != nil {
		return err
	}
	h.heads = append(h.heads, *head)
	took()
	return nil
}

func (h *fakeHeads) settleViews(*volume, uint64, *leafCache, merkle.Root) {}
func (h *fakeHeads) trimObjectLogs(map[uint32]int64, *segment.Table)      {}
func (h *fakeHeads) mayPin(*settling, ...extent.Extent) error             { return nil }
func (h *fakeHeads) mayPinLocked(*settling, []extent.Extent) error        { return nil }

// steppedIndex is an index whose changes are steps.
type steppedIndex struct {
	index.Index
	r *layerRig
}

func (x *steppedIndex) Put(entries []index.Entry) error {
	if err := x.r.step(fmt.Sprintf("index %s", segment.Name(entries[0].Location.Segment))); err != nil {
		return err
	}
	return x.Index.Put(entries)
}

// A settling makes things durable in an order in which each may refer to those before: the objects'
// bytes in all segments, their lists, the index, the head. What it changes in memory comes last.
func TestLayerSettlerOrder(t *testing.T) {
	r := newLayerRig(t)
	r.before = func(step string) error {
		if step == "publish" {
			r.wantUnsettled("before the head is published")
		}
		return nil
	}
	must(t, r.settle(t.Context(), r.v))
	r.end()
	r.wantSettled("settled")
	var segs []uint32
	for _, g := range r.segments.All() {
		segs = append(segs, g.ID)
	}
	if len(segs) != 3 {
		t.Fatalf("objects in %d segments, want adopted ones, copies and nodes apart", len(segs))
	}
	synced, listed := 0, len(r.steps)
	for _, id := range segs {
		data, list := segment.Name(id), segment.ObjectLogName(id)
		written, sync := r.position(true, "write", data), r.position(false, "datasync", data)
		if id != 1 { // not the append segment, which was written before
			sync = r.position(true, "datasync", data)
		}
		if sync < 0 || written > sync {
			t.Errorf("%s is written at step %d, and synced at %d", data, written, sync)
		}
		synced, listed = max(synced, sync), min(listed, r.position(false, "write", list))
		durable, indexed := r.position(false, "datasync", list), r.position(false, "index", data)
		if wrote := r.position(false, "write", list); wrote < 0 || durable < wrote || indexed < durable {
			t.Errorf("%s is written at step %d and synced at %d; the index follows at %d", list, wrote, durable, indexed)
		}
		if p := r.position(false, "publish", ""); p < indexed {
			t.Errorf("the head is published at step %d, before the index has %s at %d", p, data, indexed)
		}
	}
	if synced > listed {
		t.Errorf("a segment is synced at step %d, a list written at %d: its objects may refer to others that are not durable", synced, listed)
	}
	if len(r.punched) > 0 || r.v.room.waiting.Load() != nil {
		t.Errorf("a settling that has succeeded gave %v back", r.punched)
	}
}

// failing is one step of a settling that fails.
type failing struct {
	at     int
	errno  error
	failed string         // the step that has failed
	synced map[string]int // how often each file was synced before
	made   map[string]bool
	steps  int
}

func (f *failing) before(step string) error {
	kind, name, _ := strings.Cut(step, " ")
	if f.steps++; f.steps-1 == f.at {
		f.failed = step
		return f.errno
	}
	if f.failed != "" {
		return nil
	}
	switch kind {
	case "create":
		f.made[name] = true
	case "datasync":
		f.synced[name]++
	}
	return nil
}

// wants returns what a failure must lead to: an error, and a store that is read-only. either: the
// settling does not depend on the step, or the store may go on after it or not.
func (f *failing) wants() (fails, readOnly, either bool) {
	kind, name, _ := strings.Cut(f.failed, " ")
	written := !f.made[name] || f.synced[name] > 0 // else the segment is being made
	switch {
	case kind == "index": // a hint, that the indexer enters again
		return false, false, false
	case kind == "write" && strings.HasSuffix(name, ".dir") && f.synced[name] > 1: // the mark behind a list that is durable
		return false, false, false
	case kind == "datasync" && strings.HasSuffix(name, ".seg") && written:
		return true, true, false
	case kind == "publish", strings.HasSuffix(name, ".seg"):
		return true, false, false
	}
	return true, false, true
}

// Whatever step of a settling fails, the volume is as it was: no head, and the layer still there. A
// sync of objects that fails makes the store read-only. After an error that does not, the next try
// settles the layer.
func TestLayerSettlerFailures(t *testing.T) {
	for n, ended := 0, false; !ended; n++ {
		for _, errno := range []error{syscall.EIO, syscall.ENOSPC, syscall.ENOMEM} {
			r := newLayerRig(t)
			f := &failing{at: n, errno: errno, synced: map[string]int{}, made: map[string]bool{}}
			r.before = func(step string) error {
				r.mu.Lock()
				defer r.mu.Unlock()
				return f.before(step)
			}
			err := r.settle(t.Context(), r.v)
			r.before, ended = nil, f.failed == ""
			fails, readOnly, either := f.wants()
			what := fmt.Sprintf("%v at step %d, %s", errno, n, f.failed)
			if !fails || ended {
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				r.end()
				r.wantSettled(what)
				continue
			}
			if err == nil {
				t.Errorf("%s: the settling has succeeded", what)
				continue
			}
			r.wantUnsettled(what)
			is := r.gate.writeError() != nil
			if is != readOnly && !either {
				t.Errorf("%s: the store is read-only: %v, want %v: %v", what, is, readOnly, err)
			}
			again := r.settle(t.Context(), r.v)
			if is {
				if !errors.Is(again, ErrReadOnly) || len(r.punched) > 0 {
					t.Errorf("%s: settled again in a store that is read-only: %v; given back: %v", what, again, r.punched)
				}
				continue
			}
			must(t, again)
			r.end()
			r.wantSettled(what + ", and tried again")
		}
	}
}

// A power cut at any step leaves all bytes that the index knows, and so all that a head refers to.
func TestLayerSettlerPowerCut(t *testing.T) {
	for n, ended := 0, false; !ended; n++ {
		for seed := range uint64(2) {
			r := newLayerRig(t)
			var left *vfs.Mem
			steps := 0
			r.before = func(step string) error {
				r.mu.Lock()
				defer r.mu.Unlock()
				if steps++; steps-1 == n {
					left = r.mem.PowerCut(newRand(seed))
				}
				return nil
			}
			err := r.settle(t.Context(), r.v)
			if r.end(); left == nil {
				must(t, err)
				ended, left = true, r.mem.PowerCut(newRand(seed))
			}
			if r.wantDurable(fmt.Sprintf("cut at step %d", n), left); len(r.heads) > 0 && len(r.recorded) != 5 {
				t.Errorf("a head, and %d objects", len(r.recorded))
			}
		}
	}
}

// What a failed settling has recorded is found by the next one, and not written again; what it has
// copied and not recorded is given back.
func TestLayerSettlerTriesAgain(t *testing.T) {
	r := newLayerRig(t)
	full := errors.New("the log of names is full")
	r.before = func(step string) error {
		if step == "publish" {
			return full
		}
		return nil
	}
	if err := r.settle(t.Context(), r.v); !errors.Is(err, full) || len(r.punched) > 0 {
		t.Fatalf("%v, and given back: %v", err, r.punched)
	}
	r.wantUnsettled("without a head")
	r.before, r.steps = nil, nil
	must(t, r.settle(t.Context(), r.v))
	r.end()
	r.wantSettled("tried again")
	if i := r.position(false, "write", ".seg"); i >= 0 {
		t.Errorf("the second try has written its objects again: %q", r.steps)
	}

	r = newLayerRig(t)
	r.before = func(step string) error {
		if strings.HasPrefix(step, "write") && strings.HasSuffix(step, ".dir") {
			return syscall.ENOSPC
		}
		return nil
	}
	if err := r.settle(t.Context(), r.v); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("without space for the lists: %v", err)
	}
	if own := slices.DeleteFunc(slices.Clone(r.punched), func(s slots) bool { return s.seg == 1 }); len(own) != 3 || len(own) != len(r.punched) {
		t.Errorf("given back: %v, want a chunk, a leaf's node and the root, and nothing of the append segment", r.punched)
	}
}

// A settling is known to the barrier from before its first look-up until its head is published, and
// every object that the head refers to was kept, one that the store has had before too.
func TestLayerSettlerBarrier(t *testing.T) {
	r := newLayerRig(t)
	full := errors.New("full")
	r.before = func(step string) error {
		if r.barrier.running != 1 {
			t.Errorf("%s: %d settlings run", step, r.barrier.running)
		}
		if step == "publish" {
			return full
		}
		return nil
	}
	kept := func(what string) {
		t.Helper()
		for _, o := range r.recorded {
			if !r.barrier.kept[o.Hash] {
				t.Errorf("%s: a %v was not kept", what, o.Kind)
			}
		}
		if r.barrier.running != 0 {
			t.Errorf("%s: %d settlings still run", what, r.barrier.running)
		}
	}
	if err := r.settle(t.Context(), r.v); !errors.Is(err, full) || r.barrier.died > 0 {
		t.Fatalf("%v, and %d bytes may have died", err, r.barrier.died)
	}
	kept("failed")
	r.before, r.barrier.kept = nil, nil
	must(t, r.settle(t.Context(), r.v)) // finds all that the first one has stored
	r.end()
	r.wantSettled("settled")
	if kept("settled"); r.barrier.died != 2*rigChunk+512 {
		t.Errorf("%d bytes may have died, want those of the layer", r.barrier.died)
	}
}

// The end of a settling's context leaves the volume as it was, wherever it comes: at a lock that
// somebody holds, while the settling gives way, before the head is recorded.
func TestLayerSettlerContext(t *testing.T) {
	var free func() // gives settleMu back
	for name, arm := range map[string]func(*layerRig, context.CancelFunc){
		"at the lock": func(r *layerRig, cancel context.CancelFunc) {
			free = heldElsewhere(&r.v.settleMu)
			cancel()
		},
		"giving way": func(r *layerRig, cancel context.CancelFunc) {
			r.pause = func() error { cancel(); return context.Canceled }
		},
		"before the head": func(r *layerRig, cancel context.CancelFunc) {
			r.before = func(step string) error {
				if strings.HasPrefix(step, "index") {
					cancel()
				}
				return nil
			}
		},
	} {
		r := newLayerRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		arm(r, cancel)
		if err := r.settle(ctx, r.v); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		if r.wantUnsettled(name); name == "at the lock" {
			free()
		}
		if len(r.heads) > 0 || r.gate.writeError() != nil {
			t.Errorf("%s: %d heads, read-only: %v", name, len(r.heads), r.gate.writeError())
		}
		r.before, r.pause = nil, func() error { return nil }
		must(t, r.settle(t.Context(), r.v))
		r.end()
		r.wantSettled(name + ", and tried again")
	}
}

// heldElsewhere has another goroutine hold a lock until free is called.
func heldElsewhere(mu sync.Locker) (free func()) {
	held, end, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		mu.Lock()
		close(held)
		<-end
		mu.Unlock()
		close(ended)
	}()
	<-held
	return func() { close(end); <-ended }
}

// The settling of a volume that is being deleted ends.
func TestLayerSettlerDeletedVolume(t *testing.T) {
	r := newLayerRig(t)
	r.v.dropped.Store(true)
	if err := r.settle(t.Context(), r.v); !errors.Is(err, ErrNotFound) {
		t.Errorf("settled a volume that is being deleted: %v", err)
	}
	if r.wantUnsettled("deleted"); r.looks > 0 {
		t.Error("it gives way to requests first")
	}
}
