package objstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// alive is for evacuations of all that is listed.
func alive(*merkle.Hash) bool { return true }

// evacuateAll evacuates segments as a collection does for which everything is alive.
func evacuateAll(ctx context.Context, s *Store, segs []*segment.File) (evacuated, error) {
	if err := s.collector.running.LockContext(ctx); err != nil {
		return evacuated{}, err
	}
	defer s.collector.running.Unlock()
	return s.evacuator.evacuate(ctx, segs, alive)
}

// sealedSegments returns the segments that are sealed.
func sealedSegments(s *Store) []*segment.File {
	var out []*segment.File
	for _, g := range s.segments.All() {
		if g.Sealed() {
			out = append(out, g)
		}
	}
	return out
}

// holding makes a rig with a volume of 64 chunks, some of which were copied, in segments that are
// sealed, and returns what the volume holds.
func holding(t *testing.T) (*rig, []byte) {
	t.Helper()
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	data := randomBytes(1, 64*4096)
	r.write(v, data, 0)
	must(t, r.s.Settle(t.Context()))
	for i := range 8 { // a part of a chunk: it is copied
		p := randomBytes(uint64(i+2), 512)
		r.write(v, p, int64(i)*8192)
		copy(data[i*8192:], p)
	}
	must(t, r.s.Settle(t.Context()))
	must(t, v.Close())
	r.end("closed")
	r.open(nil)
	return r, data
}

// holdsAll fails unless the volume holds data, and a check finds nothing.
func (r *rig) holdsAll(what string, data []byte) {
	r.t.Helper()
	v := r.volume("a", 1<<20)
	got := make([]byte, len(data))
	_, err := v.ReadAt(got, 0)
	must(r.t, err)
	if string(got) != string(data) {
		r.t.Errorf("%s: the volume holds something else", what)
	}
	must(r.t, v.Close())
	report, err := r.s.Check(r.t.Context(), nil)
	must(r.t, err)
	if len(report.Damage) > 0 {
		r.t.Errorf("%s: damage: %v", what, report.Damage)
	}
	r.undamaged(what)
}

// What lives is copied, and the segments go, from the disk too; everything is read as before, by
// whoever has places of before in memory, and after each kind of end.
func TestEvacuate(t *testing.T) {
	for _, end := range []string{"closed", "killed", "power cut"} {
		r, data := holding(t)
		r.holdsAll("before", data) // leaves are in memory
		old := sealedSegments(r.s)
		chunks, others := r.s.stored.chunks.Load(), r.s.stored.nodes.Load()
		done, err := r.s.evacuator.evacuate(t.Context(), old, alive)
		must(t, err)
		if done.segments != len(old) || done.segments == 0 || done.copied != chunks+others || done.freed < done.copied {
			t.Errorf("evacuated %+v, of %d segments with %d bytes", done, len(old), chunks+others)
		}
		if c, o := r.s.stored.chunks.Load(), r.s.stored.nodes.Load(); c != chunks || o != others {
			t.Errorf("the store counts %d and %d bytes of objects, and had %d and %d", c, o, chunks, others)
		}
		for _, g := range old {
			if _, err := r.mem.Used(segment.Name(g.ID)); err == nil {
				t.Errorf("%s is still there", segment.Name(g.ID))
			}
		}
		if n := len(r.s.catalog.refs.Retired); n > 0 {
			t.Errorf("%d segments are remembered as retired, and their files are gone", n)
		}
		r.holdsAll("evacuated", data)
		r.end(end)
		r.open(nil)
		r.holdsAll("evacuated and "+end, data)
		r.end("closed")
		must(t, r.reopened(r.mem, r.o.Boot)) // without an index
		r.holdsAll("without an index", data)
	}
}

// What a settling comes to refer to while its segment is copied is copied too, although nothing
// referred to it at first; what is dead is not, and a segment without anything alive is unlinked.
func TestEvacuateWhatComesToBeAlive(t *testing.T) {
	r, _ := holding(t)
	var chunk segment.Object
	for _, g := range sealedSegments(r.s) {
		objs, err := g.Objects()
		must(t, err)
		for _, o := range objs {
			if o.Kind == merkle.KindChunk {
				chunk = o
			}
		}
	}
	asked := 0
	done, err := r.s.evacuator.evacuate(t.Context(), sealedSegments(r.s), func(h *merkle.Hash) bool {
		if *h != chunk.Hash {
			return false
		}
		asked++
		return asked > 1 // from when the segment is about to be vacated
	})
	must(t, err)
	if done.copied != int64(chunk.Length) || asked < 2 {
		t.Errorf("copied %d bytes, want the %d of the chunk that came to be alive", done.copied, chunk.Length)
	}
	if loc, ok := r.s.objects.Lookup(&chunk.Hash, merkle.KindChunk); !ok || !r.s.objects.Intact(loc, &chunk.Hash, merkle.KindChunk) {
		t.Error("the chunk is lost")
	}
}

// A segment with an object that can't be read right stays, and nothing of it is lost; what was
// copied before is found and not copied again.
func TestEvacuateDamaged(t *testing.T) {
	r, data := holding(t)
	segs := sealedSegments(r.s)
	var at *segment.File
	var bad segment.Object
	for _, g := range segs {
		objs, err := g.Objects()
		must(t, err)
		if last := objs[len(objs)-1]; last.Kind == merkle.KindChunk {
			at, bad = g, last
		}
	}
	good := make([]byte, bad.Length)
	_, err := at.Data.ReadAt(good, int64(bad.Block)*4096)
	must(t, err)
	_, err = at.Data.WriteAt(make([]byte, 4096), int64(bad.Block)*4096)
	must(t, err)
	done, err := r.s.evacuator.evacuate(t.Context(), segs, alive)
	must(t, err)
	if done.segments != len(segs)-1 || r.s.segments.Get(at.ID) != at {
		t.Errorf("evacuated %+v of %d segments, one with a bad object", done, len(segs))
	}
	_, err = at.Data.WriteAt(good, int64(bad.Block)*4096)
	must(t, err)
	_, err = r.s.Check(t.Context(), nil) // finds the location right
	must(t, err)
	r.holdsAll("with the object back", data)
	done, err = r.s.evacuator.evacuate(t.Context(), []*segment.File{at}, alive)
	must(t, err)
	if done.segments != 1 || done.copied > int64(bad.Length) {
		t.Errorf("evacuated %+v once more, want the object that was bad alone", done)
	}
	r.holdsAll("after all", data)
}

// Without room for copies a segment stays whole; it goes when there is room.
func TestEvacuateWithoutRoom(t *testing.T) {
	r, data := holding(t)
	segs := sealedSegments(r.s)
	_, free, err := r.mem.Space()
	must(t, err)
	r.s.space.reserve.Store(free * 4)
	done, err := r.s.evacuator.evacuate(t.Context(), segs, alive)
	if !errors.Is(err, ErrNoSpace) || done.segments > 0 {
		t.Errorf("without room: %+v, %v", done, err)
	}
	r.holdsAll("without room", data)
	r.s.space.reserve.Store(1 << 20)
	done, err = r.s.evacuator.evacuate(t.Context(), segs, alive)
	must(t, err)
	if done.segments != len(segs) {
		t.Errorf("with room: %+v of %d", done, len(segs))
	}
	r.holdsAll("with room", data)
}

// Every operation of an evacuation fails that can, once with each error; what was there is there, and
// the evacuation can be done again, by this process or after a kill.
func TestEveryFaultOfEvacuation(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.ENOMEM} {
		for n := 1; ; n++ {
			r, data := holding(t)
			r.end("closed")
			var armed atomic.Bool // looks at the room go on in the background
			var mu sync.Mutex
			count, failedAt := 0, "" // guarded by mu
			r.open(func(op vfs.Op) error {
				if !armed.Load() || op.Kind == vfs.OpSpace || op.Kind == vfs.OpUsed || op.Kind == vfs.OpOpen {
					return nil
				}
				switch op.Kind { // of which the errors say that nothing happened, or that there was no room
				case vfs.OpSyncDir, vfs.OpDatasync:
					if errno != syscall.EIO {
						return nil
					}
				case vfs.OpRead, vfs.OpRemove:
					if errno == syscall.ENOSPC {
						return nil
					}
				default:
				}
				mu.Lock()
				defer mu.Unlock()
				if count++; count == n {
					failedAt = fmt.Sprintf("%v of %s", op.Kind, op.Name)
					return errno
				}
				return nil
			})
			r.s.maker.start.Do(func() {}) // no spare is made on another goroutine
			segs := sealedSegments(r.s)
			take := func(ctx context.Context) (*segment.File, error) { return r.s.maker.create(ctx) }
			r.s.evacuator.appenders = newAppenders(take)
			armed.Store(true)
			_, err := r.s.evacuator.evacuate(t.Context(), segs, alive)
			armed.Store(false)
			mu.Lock()
			what := fmt.Sprintf("%v at operation %d, %s (%v)", errno, n, failedAt, err)
			mu.Unlock()
			if r.s.writeError() == nil {
				r.holdsAll(what, data)
				_, err = r.s.evacuator.evacuate(t.Context(), sealedSegments(r.s), alive)
				must(t, err)
				r.holdsAll(what+", and again", data)
			} else if errno != syscall.EIO {
				t.Errorf("%s: %v", what, r.s.writeError())
			}
			r.end("killed")
			r.open(nil)
			r.holdsAll(what+", killed", data)
			if t.Failed() {
				return
			}
			_ = r.s.Close()
			mu.Lock()
			met := count >= n
			mu.Unlock()
			if !met {
				t.Logf("%v: %d operations", errno, n-1)
				break
			}
		}
	}
}

// A power is cut at every operation of an evacuation: what was there is there.
func TestEveryCutOfEvacuation(t *testing.T) {
	cuts := 0
	for n := int64(1); ; n++ {
		r, data := holding(t)
		r.mem.CutAt(r.mem.Ops() + n)
		_, err := r.s.evacuator.evacuate(t.Context(), sealedSegments(r.s), alive)
		if err == nil && !r.mem.WasCut() {
			break
		}
		cuts++
		end := []string{"power cut", "killed"}[n%2]
		r.end(end)
		r.open(nil)
		r.holdsAll(fmt.Sprintf("%s at operation %d", end, n), data)
		_, err = r.s.evacuator.evacuate(t.Context(), sealedSegments(r.s), alive)
		must(t, err)
		r.holdsAll(fmt.Sprintf("%s at operation %d, evacuated", end, n), data)
		if t.Failed() {
			return
		}
		_ = r.s.Close()
	}
	t.Logf("%d cuts", cuts)
}

// A file of a retired segment that a crash has left is removed by the next opening, and what refs
// said of its object log is no damage.
func TestRetiredFileIsLeftOver(t *testing.T) {
	r, data := holding(t)
	old := sealedSegments(r.s)[0]
	var keep atomic.Bool
	r.end("closed")
	r.open(func(op vfs.Op) error {
		if keep.Load() && op.Kind == vfs.OpRemove && strings.HasSuffix(op.Name, ".seg") {
			return syscall.EBUSY
		}
		return nil
	})
	keep.Store(true)
	_, err := r.s.evacuator.evacuate(t.Context(), sealedSegments(r.s), alive)
	must(t, err)
	if _, err := r.mem.Used(segment.Name(old.ID)); err != nil || !r.s.catalog.refs.Retired[old.ID] {
		t.Errorf("the file that could not be removed: %v, remembered %v", err, r.s.catalog.refs.Retired)
	}
	r.holdsAll("with the file", data)
	r.end("power cut")
	r.open(nil)
	if _, err := r.mem.Used(segment.Name(old.ID)); err == nil {
		t.Error("the file is there after an opening")
	}
	r.holdsAll("without the file", data)
}

// opEvacuate copies all that is listed out of some of the sealed segments.
func (w *world) opEvacuate() {
	w.readAllHeld() // plans that are held would be waited for
	w.endAlong()
	ctx, cancel := ctxTimeout()
	defer cancel()
	var segs []*segment.File
	for _, g := range sealedSegments(w.s) {
		if !g.Damaged() && !w.s.sealer.holds(g) && w.pick(3, "evacuate") > 0 {
			segs = append(segs, g)
		}
	}
	done, err := evacuateAll(ctx, w.s, segs)
	w.note("evacuate %d segments: %+v, %v", len(segs), done, err)
	if errors.Is(err, ErrNoSpace) || !w.answered(err, "evacuate") {
		return
	}
	w.counts["evacuated segments"] += done.segments
}

// What is chosen to be evacuated: segments without anything alive, with much that is dead, and tiny
// ones if they are many; not those whose list, or whose writes, may not be complete.
func TestVictims(t *testing.T) {
	r := newRig(t, Options{SegmentSize: 8 << 20})
	dead := map[merkle.Hash]bool{}
	live := func(h *merkle.Hash) bool { return !dead[*h] }
	victims := func() map[uint32]bool {
		t.Helper()
		segs, err := r.s.evacuator.victims(live, nil)
		must(t, err)
		out := map[uint32]bool{}
		for _, g := range segs {
			out[g.ID] = true
		}
		return out
	}
	written := func(n int, seed uint64) *segment.File { // a sealed segment with n chunks
		t.Helper()
		had := map[uint32]bool{}
		for _, g := range sealedSegments(r.s) {
			had[g.ID] = true
		}
		v := r.volume("a", 64<<20)
		r.write(v, randomBytes(seed, n*4096), int64(seed)*(8<<20))
		must(t, r.s.Settle(t.Context()))
		must(t, v.Close())
		r.end("closed")
		r.open(nil)
		for _, g := range sealedSegments(r.s) {
			if chunks, _ := g.Stored(); !had[g.ID] && chunks > 0 {
				return g
			}
		}
		t.Fatal("no segment is sealed")
		return nil
	}
	kill := func(g *segment.File, n int) {
		t.Helper()
		objs, err := g.Objects()
		must(t, err)
		for i := range n {
			dead[objs[i].Hash] = true
		}
	}
	big := written(1024, 1)
	if v := victims(); len(v) > 0 {
		t.Errorf("of segments that live: %v", v)
	}
	kill(big, 400)
	if v := victims(); v[big.ID] {
		t.Error("a segment of which less than half is dead is a victim")
	}
	kill(big, 600)
	if v := victims(); !v[big.ID] {
		t.Error("a segment of which more than half is dead, and not punched, is no victim")
	}
	big = r.s.segments.Get(big.ID)
	big.SetDamage(errors.New("damaged"))
	if v := victims(); v[big.ID] {
		t.Error("a damaged segment is a victim")
	}
	small := written(4, 2)
	kill(small, 4)
	if v := victims(); !v[small.ID] {
		t.Error("a segment without anything alive is no victim")
	}
	clear(dead)
	for i := range uint64(3) {
		written(4, 3+i)
	}
	if v := victims(); !v[small.ID] {
		t.Error("tiny segments are no victims, although they are many")
	}
}

// Segments in which little lives, whose dead objects are punched, are copied only as far as all of them
// together are more than four times as long as what lives, and those with the least alive first.
func TestSparsestVictims(t *testing.T) {
	const capacity = 64 << 20
	r := newEvacuatorRig(t)
	choose := func(alive ...int64) (out []int64) {
		t.Helper()
		var all []weighed
		for _, mib := range alive {
			g := &segment.File{Capacity: capacity}
			all = append(all, weighed{g: g, used: mib<<20 + 2*4096, footer: 4096, alive: mib << 20, objects: 100, known: true})
		}
		chosen, err := r.evacuator.choose(all)
		must(t, err)
		for _, w := range chosen {
			out = append(out, w.alive>>20)
		}
		return out
	}
	for _, c := range []struct{ alive, want []int64 }{
		{[]int64{2, 3, 4, 5}, nil},                             // few
		{[]int64{64, 64, 2, 3, 4, 64, 5, 6, 7, 64}, nil},       // a quarter on average
		{[]int64{9, 2, 3, 4, 5, 6, 7, 8}, []int64{2, 3}},       // 8 segments, want 4 and 4 * 44 MiB
		{[]int64{2, 2, 2, 2, 2, 2, 64}, nil},                   // 7, want 4 and 4 * 76 MiB
		{[]int64{2, 2, 2, 2, 2, 2, 2, 2}, []int64{2, 2, 2, 2}}, // 8, want 4 and 4 * 16 MiB
		{[]int64{0, 0, 0, 64}, []int64{0, 0, 0}},               // without anything alive
	} {
		if got := choose(c.alive...); !slices.Equal(got, c.want) {
			t.Errorf("of segments with %v MiB alive, those with %v are victims, want %v", c.alive, got, c.want)
		}
	}
}

// A record does not speak of the object log of a segment that was retired since the lengths were
// read: an opening would miss the segment.
func TestObjectLogsOfRetiredSegments(t *testing.T) {
	r, data := holding(t)
	logs := objectLogLengths(&r.s.segments)
	for _, g := range sealedSegments(r.s) {
		logs[g.ID] = 1 << 20 // as if it was sealed since, too
	}
	_, err := r.s.evacuator.evacuate(t.Context(), sealedSegments(r.s), alive)
	must(t, err)
	head := refs.Record{Op: refs.OpHead, ID: r.s.catalog.refs.Volumes["a"].ID, ObjectLogs: logs}
	must(t, r.s.catalog.update(t.Context(), func() ([]refs.Record, error) {
		r.s.catalog.trimObjectLogs(logs, &r.s.segments)
		v := r.s.catalog.refs.Volumes["a"]
		head.Gen, head.Root, head.Logical = v.Gen, v.Root.String(), v.Logical
		return []refs.Record{head}, nil
	}, nil))
	r.end("killed")
	r.open(nil)
	r.holdsAll("killed", data)
}
