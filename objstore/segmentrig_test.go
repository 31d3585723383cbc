package objstore

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// segmentRig is the segments of a store, without the store: files in memory, whose operations are
// noted and may fail, and the types that make segments, list objects in them and end them.
type segmentRig struct {
	t         *testing.T
	mem       *vfs.Mem
	fs        vfs.FS
	store     uuid.UUID
	gate      fakeGate
	segments  *segment.Table
	pins      *segment.Pins
	sketches  *segment.Sketches
	entries   index.Index // what the index holds
	index     *storeIndex
	objects   *object.Reader
	maker     *segmentMaker
	stored    storedBytes
	recorder  *recorder
	book      *damageBook
	sealer    *sealer
	log       *slog.Logger
	nextID    uint32
	indexFail func() error // called before each change of the index

	mu    sync.Mutex
	steps []string                // operations of files, as "kind name"
	fails func(step string) error // called before an operation; an error fails it
}

func newSegmentRig(t *testing.T) *segmentRig {
	t.Helper()
	mem := vfs.NewMem(0)
	for _, d := range []string{segment.Dir, journal.Dir} {
		must(t, mem.Mkdir(d))
	}
	must(t, mem.SyncDir("."))
	return segmentRigOn(t, mem, uuid.New())
}

// segmentRigOn returns a rig on files that another one has left.
func segmentRigOn(t *testing.T, mem *vfs.Mem, store uuid.UUID) *segmentRig {
	r := &segmentRig{
		t: t, mem: mem, store: store, segments: new(segment.Table), pins: new(segment.Pins), sketches: new(segment.Sketches),
		entries: index.NewMem(), log: slog.New(slog.DiscardHandler),
	}
	r.fs = vfs.Inject(mem, func(op vfs.Op) error { return r.step(op.Kind.String() + " " + op.Name) })
	r.index = newStoreIndex(failingIndex{r.entries, r})
	r.objects = object.NewReader(object.Options{
		Segments: r.segments, Footers: segment.NewFooterCache(1 << 20), Sketches: r.sketches,
		Index: objectIndex{r.index, func([]object.Found) {}}, Pins: r.pins, Logger: r.log, ChunkSize: rigChunk,
	})
	r.maker = &segmentMaker{
		fs: r.fs, size: smallestSegment, store: store, segments: r.segments, index: r.index, gate: &r.gate, log: r.log,
		newID: func(context.Context) (uint32, error) { r.nextID++; return r.nextID, nil },
	}
	r.recorder = &recorder{
		fs: r.fs, store: store, index: r.index, objects: r.objects, count: r.stored.count, gate: &r.gate, log: r.log,
	}
	r.book = &damageBook{log: r.log}
	r.sealer = &sealer{
		fs: r.fs, store: store, segments: r.segments, index: r.index, gate: &r.gate, refused: &r.book.hold, log: r.log,
	}
	return r
}

// step notes an operation, and returns the error with which it is to fail.
func (r *segmentRig) step(what string) error {
	r.mu.Lock()
	r.steps = append(r.steps, what)
	fails := r.fails
	r.mu.Unlock()
	if fails != nil {
		return fails(what)
	}
	return nil
}

// failWith has operations fail whose "kind name" has one of the prefixes, with an error; none: all
// succeed again.
func (r *segmentRig) failWith(err error, prefixes ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fails = func(step string) error {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(step, p) }) {
			return err
		}
		return nil
	}
}

// failAt has the operation fail that comes after n others from here on. reached reports whether there
// was one.
func (r *segmentRig) failAt(n int, err error) (reached func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := 0
	r.fails = func(string) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if seen++; seen == n+1 {
			return err
		}
		return nil
	}
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return seen > n
	}
}

// first returns the position of the first operation with a prefix; -1: there is none.
func (r *segmentRig) first(prefix string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.IndexFunc(r.steps, func(s string) bool { return strings.HasPrefix(s, prefix) })
}

// reset forgets the operations noted so far.
func (r *segmentRig) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = nil
}

// segment makes a segment with n chunks of a block each, one behind the other, which are written but
// not listed.
func (r *segmentRig) segment(n int) (*segment.File, []segment.Object) {
	r.t.Helper()
	g, err := r.maker.create(r.t.Context())
	must(r.t, err)
	objs := make([]segment.Object, n)
	for i := range objs {
		p := disk.AlignedBuffer(disk.BlockSize)
		copy(p, randomBytes(uint64(g.ID)*1000+uint64(i), disk.BlockSize))
		must(r.t, disk.WriteAligned(g.Data, p, g.Next))
		objs[i] = segment.Object{
			Hash: merkle.Sum(merkle.KindChunk, p), Kind: merkle.KindChunk,
			Block: uint32(g.Next / disk.BlockSize), Length: disk.BlockSize,
		}
		g.Next += disk.BlockSize
	}
	return g, objs
}

// listed is segment, with all objects durable, listed and known.
func (r *segmentRig) listed(n int) (*segment.File, []segment.Object) {
	r.t.Helper()
	g, objs := r.segment(n)
	must(r.t, g.Sync())
	must(r.t, r.recorder.list(g, objs))
	r.recorder.enter(g, objs)
	return g, objs
}

// reopened returns the segment as an opening finds it in files; nil: it is not there.
func (r *segmentRig) reopened(left *vfs.Mem, id uint32) *segment.File {
	r.t.Helper()
	if _, err := left.Used(segment.Name(id)); err != nil {
		return nil
	}
	_, err := left.Used(segment.ObjectLogName(id))
	g, err := segment.Open(r.t.Context(), left, id, r.store, err == nil)
	must(r.t, err)
	r.t.Cleanup(func() { _ = g.Close() })
	return g
}

// wantObjects fails unless a segment lists exactly objs, and has their bytes.
func (r *segmentRig) wantObjects(what string, g *segment.File, objs []segment.Object) {
	r.t.Helper()
	if g == nil {
		r.t.Errorf("%s: the segment is not there", what)
		return
	}
	got, err := g.Objects()
	must(r.t, err)
	if !slices.Equal(got, objs) {
		r.t.Errorf("%s: %d objects are listed, want %d", what, len(got), len(objs))
	}
	buf := disk.AlignedBuffer(disk.BlockSize)
	for _, o := range objs {
		if _, err := g.Data.ReadAt(buf, int64(o.Block)*disk.BlockSize); err != nil || merkle.Sum(o.Kind, buf) != o.Hash {
			r.t.Errorf("%s: the object at block %d is not there: %v", what, o.Block, err)
		}
	}
}

// wantReadOnly fails unless the store takes no writes any more, or still takes them.
func (r *segmentRig) wantReadOnly(what string, want bool) {
	r.t.Helper()
	if got := r.gate.writeError() != nil; got != want {
		r.t.Errorf("%s: read-only is %v, want %v", what, got, want)
	}
}

// failingIndex is an index whose changes the rig can fail.
type failingIndex struct {
	index.Index
	r *segmentRig
}

func (x failingIndex) fail() error {
	if x.r.indexFail != nil {
		return x.r.indexFail()
	}
	return nil
}

func (x failingIndex) Put(entries []index.Entry) error {
	if err := x.fail(); err != nil {
		return err
	}
	return x.Index.Put(entries)
}

func (x failingIndex) Delete(hashes [][32]byte) error {
	if err := x.fail(); err != nil {
		return err
	}
	return x.Index.Delete(hashes)
}

func (x failingIndex) MarkDone(ids ...uint32) error {
	if err := x.fail(); err != nil {
		return err
	}
	return x.Index.MarkDone(ids...)
}
