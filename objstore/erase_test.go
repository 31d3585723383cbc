package objstore

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// erasable is a store with a volume that has a chunk in each of many leaves, which are not in
// memory.
type erasable struct {
	*rig
	reads atomic.Int64                // of segments, since the store was opened
	each  atomic.Pointer[func(int64)] // called for each, with its number
}

func newErasable(t *testing.T, leaves int64) *erasable {
	t.Helper()
	e := &erasable{rig: newRig(t, Options{TailSoft: 1 << 40, TailHard: 1 << 40})}
	v := e.volume("a", leaves<<20)
	for i := range leaves {
		e.write(v, randomBytes(uint64(i), 4096), i<<20)
	}
	must(t, e.s.Settle(context.Background()))
	must(t, v.Close())
	must(t, e.s.Close())
	e.open(func(op vfs.Op) error {
		if op.Kind == vfs.OpRead && strings.HasSuffix(op.Name, ".seg") && op.Off > 0 {
			n := e.reads.Add(1)
			if f := e.each.Load(); f != nil {
				(*f)(n)
			}
		}
		return nil
	})
	e.reads.Store(0)
	return e
}

func (e *erasable) logical(want int64) {
	e.t.Helper()
	i, err := e.s.VolumeInfo("a")
	must(e.t, err)
	if i.Logical != want {
		e.t.Errorf("%d bytes that are not holes, want %d", i.Logical, want)
	}
}

// isZero reads 4096 bytes and says whether they are zeroes.
func isZero(t *testing.T, v *Volume, off int64) bool {
	t.Helper()
	b := make([]byte, 4096)
	_, err := v.ReadAt(b, off)
	must(t, err)
	return disk.AllZero(b)
}

// A discard of a whole volume reads no leaf, nor does one with a new file system on it.
func TestDiscardOfAllReadsNoLeaf(t *testing.T) {
	const leaves = 1500
	for _, written := range []int64{0, 3} {
		e := newErasable(t, leaves)
		v := e.volume("a", 0)
		if isZero(t, v, 700<<20) { // one leaf is in memory
			t.Fatal("nothing was written")
		}
		e.s.accounting.mu.Lock() // the counts of references would visit each leaf
		before := e.reads.Load()
		for off := int64(leaves-300) << 20; off >= 0; off -= 300 << 20 { // in pieces, backwards
			must(t, v.Zero(off, 300<<20))
		}
		for i := range written {
			e.write(v, randomBytes(uint64(i), 4096), i*400<<20)
		}
		must(t, e.s.Settle(context.Background()))
		if n := e.reads.Load() - before; n > 20 {
			t.Errorf("a discard of %d leaves, and %d chunks written, reads %d times", leaves, written, n)
		}
		e.s.accounting.mu.Unlock()
		e.logical(written * 4096)
		for _, off := range []int64{0, 400 << 20, 700 << 20, (leaves - 1) << 20} {
			if zero, want := isZero(t, v, off), off%(400<<20) != 0 || off>>20 >= written*400; zero != want {
				t.Errorf("zeroes at %d MiB: %v", off>>20, zero)
			}
		}
	}
}

// What a discard of a part takes out of the account is counted; other volumes settle in between.
func TestDiscardOfPartLetsOthersSettle(t *testing.T) {
	const leaves = 3000
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	e := newErasable(t, leaves)
	v, b := e.volume("a", 0), e.volume("b", 1<<20)
	if isZero(t, v, 100<<20) { // the leaf is in memory
		t.Fatal("nothing was written")
	}
	e.write(b, randomBytes(1, 8192), 0)
	var gen uint64
	var late atomic.Bool
	e.s.accounting.mu.Lock() // the counts of references would visit each leaf, too
	e.reads.Store(0)
	// The settler itself reads: a round of it visits every volume, and counts less than 1024 nodes
	// of one.
	each := func(n int64) {
		switch n {
		case 100:
			gen, _ = b.freeze()
		case 2300:
			b.mu.Lock()
			late.Store(b.baseGen < gen)
			b.mu.Unlock()
		}
	}
	e.each.Store(&each)
	must(t, v.Zero(0, (leaves-1)<<20))
	zeroed, err := v.freeze()
	must(t, err)
	must(t, e.s.settler.waitSettled(ctx, v.volume, zeroed))
	e.s.accounting.mu.Unlock()
	if n := e.reads.Load(); n < 2300 || n > leaves+100 {
		t.Errorf("%d reads to count %d leaves", n, leaves-1)
	}
	if late.Load() || gen == 0 {
		t.Error("another volume has not settled while what was discarded was counted")
	}
	e.logical(4096)
	if !isZero(t, v, 100<<20) || isZero(t, v, (leaves-1)<<20) {
		t.Error("the volume reads something else")
	}
}

// Counting ends when the volume is dropped.
func TestCountingEndsWithVolume(t *testing.T) {
	e := newErasable(t, 1500)
	v := e.volume("a", 0)
	must(t, v.Zero(0, 1400<<20))
	_, err := v.freeze()
	must(t, err)
	must(t, v.Close())
	e.s.accounting.mu.Lock() // the counts of references would read, too
	defer e.s.accounting.mu.Unlock()
	deleted := make(chan error, 1)
	var last atomic.Int64
	each := func(n int64) {
		if n != 300 {
			last.Store(n)
			return
		}
		go func() { deleted <- e.s.DeleteVolume(context.Background(), "a") }()
		for end := time.Now().Add(patience); !v.dropped.Load() && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	e.each.Store(&each)
	e.reads.Store(0)
	e.s.settler.ask()
	must(t, <-deleted)
	if n := last.Load(); n > 310 {
		t.Errorf("it went on to count: %d reads", n)
	}
}
