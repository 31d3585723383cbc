package segment

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/merkle"
	"varve/objstore/vfs"
)

// sealedWith returns a sealed segment with these objects.
func sealedWith(t *testing.T, objs []Object) (*vfs.Mem, *File) {
	t.Helper()
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir(Dir))
	must(t, fs.SyncDir("."))
	g, err := Create(fs, 7, 4<<20, disktest.Store)
	must(t, err)
	must(t, fs.SyncDir(Dir))
	must(t, g.Add(fs, disktest.Store, objs))
	must(t, g.Seal(fs, disktest.Store))
	return fs, g
}

// chunksFrom returns n chunks of a block each, one behind the other, with hashes from first on.
func chunksFrom(first byte, n int) []Object {
	objs := make([]Object, n)
	for i := range objs {
		objs[i] = Object{Hash: hashOf(first + byte(i)), Block: uint32(i + 1), Length: disk.BlockSize, Kind: merkle.KindChunk}
	}
	return objs
}

// but returns a function that says that all are alive but some.
func but(dead ...byte) func(*merkle.Hash) bool {
	return func(h *merkle.Hash) bool { return !slices.Contains(dead, h[0]) }
}

var anyHole = HoleLimits{Shortest: disk.BlockSize}

// What was taken out of a list is not found in the cache of footers either, before and after the
// segment is sealed again.
func TestFooterCacheOfShrunkSegment(t *testing.T) {
	fs, g := sealedWith(t, chunksFrom(1, 10))
	c := NewFooterCache(1 << 20)
	if all, err := c.Get(g); err != nil || all.Len() != 10 {
		t.Fatalf("%d objects, %v", all.Len(), err)
	}
	s, err := new(Surveyor).Survey(g, but(3, 4), anyHole)
	must(t, err)
	must(t, g.Shrink(fs, disktest.Store, s, but(3, 4), anyHole))
	if _, err := c.Get(g); !errors.Is(err, ErrListChanged) {
		t.Errorf("the footer of a segment that is not sealed: %v", err)
	}
	must(t, g.Seal(fs, disktest.Store))
	all, err := c.Get(g)
	must(t, err)
	if _, there := all.Find(3); there || all.Len() != 8 {
		t.Errorf("%d objects are left of 10, two of which were taken out", all.Len())
	}
}

// A survey of a list that has changed since takes nothing out, and brings nothing back.
func TestShrinkOfChangedList(t *testing.T) {
	fs, g := sealedWith(t, chunksFrom(1, 10))
	first, err := new(Surveyor).Survey(g, but(3, 4), anyHole)
	must(t, err)
	second, err := new(Surveyor).Survey(g, but(7), anyHole)
	must(t, err)
	must(t, g.Shrink(fs, disktest.Store, first, but(3, 4), anyHole))
	must(t, g.Seal(fs, disktest.Store))
	must(t, g.Shrink(fs, disktest.Store, second, but(7), anyHole))
	if len(second.Dead) > 0 || len(second.Holes) > 0 || !g.Sealed() {
		t.Errorf("by an old survey %d objects were taken out; sealed %v", len(second.Dead), g.Sealed())
	}
	objs, err := g.Objects()
	must(t, err)
	if len(objs) != 8 || slices.ContainsFunc(objs, func(o Object) bool { return o.Block == 3 || o.Block == 4 }) {
		t.Errorf("the list names %d objects", len(objs))
	}
}

// Whatever is alive and dead where: holes lie between the objects that stay, what is taken out lies in
// them, nothing is lost, and the list is the same after a kill and after a power cut.
func TestShrinkAnything(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 3))
		var objs []Object
		dead := map[merkle.Hash]bool{}
		for at := uint32(1); at < 900; {
			at += uint32(r.IntN(3) / 2 * r.IntN(20))
			o := Object{Hash: randomHash(r), Block: at, Length: uint32(1 + r.IntN(20_000)), Kind: merkle.KindChunk}
			at += uint32(o.slot() / disk.BlockSize)
			dead[o.Hash] = r.IntN(8) < int(seed%9)
			objs = append(objs, o)
		}
		live := func(h *merkle.Hash) bool { return !dead[*h] }
		limits := HoleLimits{Shortest: int64(r.IntN(8)) * disk.BlockSize, Most: r.IntN(3) * r.IntN(10)}
		fs, g := sealedWith(t, objs)
		s, err := new(Surveyor).Survey(g, live, limits)
		must(t, err)
		for range r.IntN(4) { // comes to life after the survey
			dead[objs[r.IntN(len(objs))].Hash] = false
		}
		if s.AllDead() { // else the whole segment goes
			dead[objs[r.IntN(len(objs))].Hash] = false
		}
		must(t, g.Shrink(fs, disktest.Store, s, live, limits))
		checkShrunk(t, seed, objs, s, live)
		now, err := g.Objects()
		must(t, err)
		if want := len(objs) - len(s.Dead); len(now) != want {
			t.Errorf("seed %d: the list names %d objects, want %d", seed, len(now), want)
		}
		for _, mem := range []*vfs.Mem{fs.PowerCut(r), fs.Kill()} {
			again, err := Open(t.Context(), mem, 7, disktest.Store, len(s.Dead) > 0)
			must(t, err)
			then, err := again.Objects()
			must(t, err)
			if again.Damaged() || again.Repaired() != nil || !slices.Equal(now, then) {
				t.Errorf("seed %d: %d objects after an opening, %d before; damage %v, %v", seed, len(then), len(now), again.Damage(), again.Repaired())
			}
			must(t, again.Close())
		}
	}
}

// checkShrunk holds what was taken out against what there was.
func checkShrunk(t *testing.T, seed uint64, objs []Object, s *Shrinking, live func(*merkle.Hash) bool) {
	t.Helper()
	within := func(o *Object) (whole, part bool) {
		from := int64(o.Block) * disk.BlockSize
		for _, h := range s.Holes {
			whole = whole || h.From <= from && from+o.slot() <= h.To
			part = part || h.From < from+o.slot() && from < h.To
		}
		return whole, part
	}
	for i := range objs {
		o := &objs[i]
		out := slices.Contains(s.Dead, *o)
		if whole, part := within(o); out != whole || part != whole || out && live(&o.Hash) {
			t.Errorf("seed %d: block %d is taken out: %v; alive: %v; lies in a hole: %v, or in part: %v", seed, o.Block, out, live(&o.Hash), whole, part)
		}
	}
}

// Surveys of one segment after another take no memory for each list. What the second one finds is
// not what the first one did.
func TestSurveyorReusesMemory(t *testing.T) {
	const objects = 900
	many := chunksFrom(1, objects)
	for i := range many {
		many[i].Hash[1] = 1 // or some are zero
	}
	_, g := sealedWith(t, many)
	_, few := sealedWith(t, chunksFrom(1, 10))
	var v Surveyor
	s, err := v.Survey(g, but(3), anyHole)
	must(t, err)
	if len(s.Dead) != objects/256+1 || len(s.Live)+len(s.Dead) != objects {
		t.Fatalf("%d dead and %d live objects", len(s.Dead), len(s.Live))
	}
	s, err = v.Survey(few, but(4, 5), anyHole)
	must(t, err)
	if len(s.Dead) != 2 || len(s.Live) != 8 {
		t.Fatalf("%d dead and %d live objects in the second segment", len(s.Dead), len(s.Live))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		_, err := v.Survey(g, but(), anyHole)
		must(t, err)
	}
	runtime.ReadMemStats(&after)
	if n, list := after.TotalAlloc-before.TotalAlloc, uint64(objects*ObjectSize); n > list {
		t.Errorf("ten surveys of a list of %d bytes take %d bytes of new memory", list, n)
	}
}

// A list that is shortened over and over does not make its log longer, which repeats entries to be as
// long as the one before.
func TestShortenedLogStaysAsLong(t *testing.T) {
	for _, n := range []int{1 << 10, 1 << 15} { // the second needs several frames of repeated entries
		fs := vfs.NewMem(0)
		must(t, fs.Mkdir(Dir))
		g, err := Create(fs, 7, 1<<30, disktest.Store)
		must(t, err)
		objs := make([]Object, n)
		for i := range objs {
			objs[i] = Object{Block: uint32(1 + i), Length: 4096, Kind: merkle.KindChunk}
			binary.LittleEndian.PutUint32(objs[i].Hash[:], uint32(1+i))
		}
		must(t, g.Add(fs, disktest.Store, objs))
		first := g.ObjectLogSize()
		must(t, g.Seal(fs, disktest.Store))
		for n > 1 {
			n -= (n + 3) / 4
			live := func(h *merkle.Hash) bool { return int(binary.LittleEndian.Uint32(h[:])) <= n }
			s, err := new(Surveyor).Survey(g, live, HoleLimits{Shortest: 4096})
			must(t, err)
			must(t, g.Shrink(fs, disktest.Store, s, live, HoleLimits{Shortest: 4096}))
			if size := g.ObjectLogSize(); size < first || size > first+32<<10 {
				t.Errorf("with %d objects left the log has %d bytes, the first one had %d", n, size, first)
			}
			must(t, g.Seal(fs, disktest.Store))
			if objs, err := g.Objects(); err != nil || len(objs) != n {
				t.Fatalf("%d objects are listed, want %d, %v", len(objs), n, err)
			}
		}
		must(t, g.Close())
	}
}
