package objstore

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// leafNode returns the location of the node of leaf i in a volume's settled tree.
func (r *rig) leafNode(v *Volume, i int64) segment.Location {
	r.t.Helper()
	root := v.base.root
	h := root.Top
	for level := root.Depth; level > 1; level-- {
		n, err := r.s.objects.Node(r.t.Context(), h, level)
		must(r.t, err)
		h = n[i/merkle.Span(level-2)%merkle.FanOut]
	}
	loc, _, err := r.s.objects.Locate(r.t.Context(), &h, merkle.NodeKind(1))
	must(r.t, err)
	return loc
}

// flipAt flips a bit of the object at loc, or flips it back.
func (r *rig) flipAt(loc segment.Location) {
	flip(r.t, r.mem, segment.Name(loc.Segment()), loc.Offset()+65)
}

// reopenSettled returns a store that has settled a volume of random bytes and was opened again, with
// the hook, to settle after a second. damage, if there is one, runs before the store is closed.
func reopenSettled(
	t *testing.T, name string, size int64, damage func(*rig, *Volume), hook func(vfs.Op) error,
) (*rig, *Volume) {
	t.Helper()
	r := newRig(t, Options{TailSoft: 1 << 30, TailHard: 2 << 30})
	v := r.volume(name, size)
	r.write(v, randomBytes(1, int(size)), 0)
	must(t, r.s.Settle(t.Context()))
	if damage != nil {
		damage(r, v)
	}
	must(t, v.Close())
	must(t, r.s.Close())
	r.o.SettleDelay = time.Second
	r.open(hook)
	return r, r.volume(name, 0)
}

// damagedLeaf returns a settled volume of 1 MiB leaves, in a store that was opened again after the
// node of the last leaf was damaged.
func damagedLeaf(t *testing.T, leaves int, hook func(vfs.Op) error) (r *rig, v *Volume, node segment.Location) {
	t.Helper()
	r, v = reopenSettled(t, "damaged", int64(leaves)<<20, func(r *rig, v *Volume) {
		node = r.leafNode(v, int64(leaves)-1)
		r.flipAt(node)
	}, hook)
	return r, v, node
}

// segmentWrites counts the bytes that settling writes to segments, of objects that it copies.
func segmentWrites(n *atomic.Int64) func(vfs.Op) error {
	return func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite && strings.HasSuffix(op.Name, ".seg") && op.Len >= disk.BlockSize {
			n.Add(op.Len)
		}
		return nil
	}
}

func (v *Volume) hasSettled(gen uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.baseGen >= gen
}

// A settling that meets a lost tree node writes none of its copies, and is tried seldom; but at
// once when the node is good again.
func TestSettlingThatCantEndCopiesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leaves = 8
		var copied, reads atomic.Int64
		count := segmentWrites(&copied)
		r, v, node := damagedLeaf(t, leaves, func(op vfs.Op) error {
			if op.Kind == vfs.OpRead {
				reads.Add(op.Len)
			}
			return count(op)
		})
		copied.Store(0)
		for i := range leaves - 1 { // parts of chunks, which have to be copied
			for j := range 100 {
				r.write(v, randomBytes(uint64(i*200+j), 512), int64(i)<<20+int64(j)*4096)
			}
		}
		r.write(v, randomBytes(9, 512), (leaves-1)<<20) // below the node
		gen := v.activeGen()
		time.Sleep(time.Minute)
		fails, before := v.attempts.failed.Load(), reads.Load()
		if fails < settleTries {
			t.Fatalf("%d tries in a minute: is it tried at all?", fails)
		}
		time.Sleep(24 * time.Hour)
		if n := v.attempts.failed.Load() - fails; n < 200 || n > 300 {
			t.Errorf("%d tries in a day, want one in %v", n, longestRetry)
		}
		if n := copied.Load(); n > 0 {
			t.Errorf("a settling that can't end has written %d bytes of copies", n)
		}
		if n := reads.Load() - before; n > 100<<20 {
			t.Errorf("a settling that can't end has read %d MiB in a day", n>>20)
		}
		r.flipAt(node)
		report, err := r.s.Check(t.Context(), nil)
		if err != nil || report.Damaged() > 0 {
			t.Fatalf("check of what is good again: %v, %+v", err, report.Damage)
		}
		time.Sleep(2 * time.Second)
		if !v.hasSettled(gen) {
			t.Error("the node is good again, and nothing has settled 2 s later")
		}
		must(t, v.Close())
		must(t, r.s.Close())
	})
}

// A caller that asks for a settling that can't end, and gives up at once, leaves the last error to
// the others: a write that finds the tail full is refused with it, and does not wait for the next
// try.
func TestWaiterThatGivesUpLeavesTheError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, v, _ := damagedLeaf(t, 1, nil)
		r.write(v, randomBytes(1, 512), 0)
		time.Sleep(time.Minute)
		if v.attempts.failed.Load() < settleTries {
			t.Fatal("it settles")
		}
		must(t, r.s.Quiesce()) // no try comes between the waiter and the write
		impatient, giveUp := context.WithCancel(t.Context())
		giveUp()
		if err := r.s.Settle(impatient); !errors.Is(err, context.Canceled) {
			t.Errorf("settle for nobody: %v", err)
		}
		r.s.opts.TailHard = 0
		var w Write
		if err := v.Reserve(0, 4096, &w); !errors.Is(err, ErrCorrupt) {
			t.Errorf("a write that finds the tail full: %v, want the reason why it does not settle", err)
		}
		r.s.Resume()
		must(t, v.Close())
		must(t, r.s.Close())
	})
}

// The same when a snapshot needs a chunk that is damaged and was written in part: the first try
// copies what comes before the chunk, later tries copy nothing; once the snapshot is deleted, all
// settles.
func TestSnapshotThatCantSettleCopiesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var copied atomic.Int64
		r, v := reopenSettled(t, "v", 4<<20, nil, segmentWrites(&copied))
		copied.Store(0)
		last := int64(4<<20 - 4096)
		seg, off := locationOf(t, v, last)
		flip(t, r.mem, segment.Name(seg), off+100)
		for j := range int64(200) {
			r.write(v, randomBytes(uint64(j), 512), j*4096)
		}
		r.write(v, randomBytes(9, 512), last)
		_, err := r.s.CreateSnapshot(t.Context(), "v", "s")
		must(t, err)
		gen := v.activeGen() - 1
		time.Sleep(time.Minute)
		fails, first := v.attempts.failed.Load(), copied.Load()
		if fails < settleTries {
			t.Fatalf("%d tries in a minute: is it tried at all?", fails)
		}
		if want := int64(2 * 200 * 4096); first > want {
			t.Errorf("the tries of a minute have written %d bytes of copies, want at most %d: those of one try", first, want)
		}
		time.Sleep(24 * time.Hour)
		if n := copied.Load() - first; n > 0 {
			t.Errorf("later tries have written %d bytes of copies", n)
		}
		must(t, r.s.DeleteSnapshot(t.Context(), "v", "s"))
		time.Sleep(2 * time.Second)
		if !v.hasSettled(gen) {
			t.Error("the snapshot is gone, and nothing has settled 2 s later")
		}
		must(t, v.Close())
		must(t, r.s.Close())
	})
}

// A full disk: settling is tried again when there is room, not a minute later.
func TestSettlingWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		var tries atomic.Int64
		r, v := reopenSettled(t, "v", 4<<20, nil, func(op vfs.Op) error {
			if full.Load() && op.Kind == vfs.OpWrite && strings.HasSuffix(op.Name, ".seg") && op.Len == disk.BlockSize {
				tries.Add(1)
				return unix.ENOSPC
			}
			return nil
		})
		r.write(v, randomBytes(2, 512), 0)
		gen := v.activeGen()
		full.Store(true)
		r.mem.SetSpace(100 << 20)
		time.Sleep(4 * time.Hour)
		if n := tries.Load(); n < 170 || n > 330 {
			t.Errorf("%d tries on a disk that is full for four hours, want one in %v", n, fullRetry)
		}
		full.Store(false)
		r.mem.SetSpace(200 << 20)
		time.Sleep(2 * time.Second)
		if !v.hasSettled(gen) {
			t.Error("there is room again, and nothing has settled 2 s later")
		}
		must(t, v.Close())
		must(t, r.s.Close())
	})
}

// A volume that can't settle does not affect another one, which goes on to overwrite itself in a
// store at its maximum: that takes no more room than settling gives back.
func TestStuckVolumeDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, stuck, _ := damagedLeaf(t, 2, nil)
		must(t, r.s.SetMaxSize(t.Context(), SmallestMaxSize))
		other := r.volume("other", 8<<20)
		r.write(stuck, randomBytes(2, 4096), 1<<20+8192)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		if err := r.s.settler.waitSettled(ctx, stuck.volume, stuck.activeGen()); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("settling below a lost node: %v", err)
		}
		cancel()
		time.Sleep(time.Minute)
		if n := stuck.attempts.failed.Load(); n < settleTries {
			t.Fatalf("%d tries in a minute", n)
		}
		for n := range int64(300) {
			if _, err := other.WriteAt(randomBytes(uint64(n)%7, 1<<20), n<<20%(8<<20)); err != nil {
				t.Fatalf("a write of another volume, after %d MiB: %v", n, err)
			}
		}
		// It is settled in time, too, whatever the next try of the stuck one waits for.
		gen := other.activeGen()
		time.Sleep(3 * time.Second)
		if !other.hasSettled(gen) {
			t.Error("the other volume does not settle")
		}
		// When nothing but the stuck volume's tail is left, no write waits for it.
		if r.s.space.tails.Load() == 0 || r.s.space.stuckTails.Load() != r.s.space.tails.Load() {
			t.Errorf("tails of %d bytes, of which %d are stuck", r.s.space.tails.Load(), r.s.space.stuckTails.Load())
		}
		must(t, stuck.Close())
		must(t, other.Close())
		must(t, r.s.DeleteVolume(t.Context(), "damaged"))
		if n, m := r.s.space.stuckTails.Load(), r.s.space.stuckReserved.Load(); n != 0 || m != 0 {
			t.Errorf("a deleted volume leaves %d and %d bytes on the account", n, m)
		}
		must(t, r.s.Close())
	})
}

// activeGen is the generation that takes writes.
func (v *volume) activeGen() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.active().gen
}

// Who waits for settling is not told what came of a try that had begun before: it says nothing of
// the state that the caller knows, who may just have made room.
func TestSettleIsNotToldOfAnEarlierTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		must(t, r.s.Close())
		var full atomic.Bool
		begun, goOn := make(chan struct{}), make(chan struct{})
		r.open(func(op vfs.Op) error {
			switch {
			case op.Kind != vfs.OpWrite || !strings.HasSuffix(op.Name, ".dir"):
			case full.CompareAndSwap(true, false):
				close(begun)
				<-goOn
				return unix.ENOSPC
			default:
				time.Sleep(time.Second) // the waiting look at the failure before the next try ends
			}
			return nil
		})
		v := r.volume("a", 1<<20)
		r.write(v, randomBytes(1, 64<<10), 0)
		full.Store(true)
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- r.s.Settle(t.Context()) }() // succeeds at the next try if it came late itself
		<-begun
		go func() { second <- r.s.Settle(t.Context()) }()
		synctest.Wait() // it waits for the settling
		close(goOn)
		if err := <-first; err != nil && !errors.Is(err, ErrNoSpace) {
			t.Errorf("the settling that lacked room: %v", err)
		}
		must(t, <-second)
		must(t, v.Close())
	})
}
