package objstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/merkle"
	"varve/objstore/vfs"
)

// Whoever waits for a lock that somebody holds over I/O, and gives up, is let go at once, and
// nothing has been done: of all that takes a context.
func TestContextEndsTheWaitForALock(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("a", 1<<20)
	must(t, r.volume("b", 1<<20).Close())
	_, err := r.s.CreateSnapshot(t.Context(), "a", "s")
	must(t, err)
	must(t, r.s.Settle(t.Context()))
	must(t, r.s.Quiesce())
	a, err := r.s.catalog.find("a")
	must(t, err)
	logMu, settleMu, checking := &r.s.catalog.logMu, &a.settleMu, &r.s.checking
	for name, c := range map[string]struct {
		lock interface{ Lock() }
		call func(ctx context.Context) error
	}{
		"CreateVolume": {logMu, func(ctx context.Context) error {
			_, err := r.s.CreateVolume(ctx, "new", VolumeOptions{Size: 1 << 20})
			return err
		}},
		"SetMaxSize":   {logMu, func(ctx context.Context) error { return r.s.SetMaxSize(ctx, SmallestMaxSize) }},
		"DeleteVolume": {logMu, func(ctx context.Context) error { return r.s.DeleteVolume(ctx, "b") }},
		"SetVerify": {logMu, func(ctx context.Context) error {
			_, err := r.s.SetVerify(ctx, "a", true)
			return err
		}},
		"CreateSnapshot": {logMu, func(ctx context.Context) error {
			_, err := r.s.CreateSnapshot(ctx, "a", "new")
			return err
		}},
		"DeleteSnapshot": {logMu, func(ctx context.Context) error { return r.s.DeleteSnapshot(ctx, "a", "s") }},
		"CreateScratch": {logMu, func(ctx context.Context) error {
			_, err := r.s.CreateScratch(ctx, "a", "s")
			return err
		}},
		"RepairVolume": {settleMu, func(ctx context.Context) error {
			_, err := r.s.RepairVolume(ctx, "a", true)
			return err
		}},
		"AcceptCopies": {settleMu, func(ctx context.Context) error {
			_, err := r.s.AcceptCopies(ctx, CopiedStopped)
			return err
		}},
		"settleLayer": {settleMu, func(ctx context.Context) error { return a.settleOldest(ctx) }},
		"Check": {checking, func(ctx context.Context) error {
			_, err := r.s.Check(ctx, nil)
			return err
		}},
	} {
		c.lock.Lock()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		done := make(chan error, 1)
		go func() { done <- c.call(ctx) }()
		select {
		case err := <-done:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(patience):
			t.Errorf("%s goes on waiting for a lock when its context has ended", name)
		}
		cancel()
		c.lock.(interface{ Unlock() }).Unlock()
	}
	if vols := r.s.Volumes(); len(vols) != 2 || vols[0].Snapshots != 1 || vols[0].Verify {
		t.Errorf("calls that were given up have changed something: %+v", vols)
	}
	r.s.Resume()
}

// A look for the end of what is alike in an image ends with its context, however large the image.
func TestContextEndsExtent(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 64<<20)
	r.write(v, make([]byte, 4096), 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := v.Extent(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("extent for nobody: %v", err)
	}
}

// untilEnded bounds the file operations that a call does after its context has ended: 16 goroutines
// (disk.Parallel) end what each does to one file, and the reading of room goes on beside them.
const untilEnded = 16 * 24

// canceledAt runs f with a context that ends at file operation n of the file layer that f gets, and
// returns the error, and how many operations came later.
func canceledAt(t *testing.T, mem vfs.FS, n int64, f func(ctx context.Context, fs vfs.FS) error) (later int64, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ops atomic.Int64
	fs := vfs.Inject(mem, func(vfs.Op) error {
		if ops.Add(1) == n {
			cancel()
		}
		return nil
	})
	err = f(ctx, fs)
	return ops.Load() - n, err
}

// An opening ends with its context, wherever that is: it reads no further segment or journal. The
// next opening finds everything as it was.
func TestContextEndsOpening(t *testing.T) {
	const volumes = 128
	r := newRig(t, Options{})
	write := func(i int, off int64) {
		r.write(r.volume(fmt.Sprint("v", i), 1<<20), randomBytes(uint64(i), 4096), off)
	}
	for i := range volumes {
		write(i, 0)
	}
	must(t, r.s.Settle(t.Context())) // half of the segments are swept, the others are of journals
	for i := 0; i < volumes; i += 4 {
		write(i, 4096)
		write(i+1, 4096)
		v, err := r.s.catalog.find(fmt.Sprint("v", i))
		must(t, err)
		_, err = v.freeze()
		must(t, err)
		write(i, 8192)
	}
	killed := r.mem.Kill()
	_ = r.s.Close()
	open := func(ctx context.Context, fs vfs.FS) error {
		o := r.o
		o.FS, o.Index = fs, index.NewMem()
		s, err := Open(ctx, "mem", o)
		if err == nil {
			r.s = s
		}
		return err
	}
	all, err := canceledAt(t, killed.Kill(), 0, open)
	must(t, err)
	must(t, r.s.Close())
	for n := int64(1); n < all-untilEnded; n += 1 + all/12 {
		mem := killed.Kill()
		if later, err := canceledAt(t, mem, n, open); !errors.Is(err, context.Canceled) || later > untilEnded {
			t.Errorf("canceled at operation %d of %d: %v, after %d more", n, all, err, later)
		}
		_, _ = canceledAt(t, mem, 0, open)
		r.undamaged(fmt.Sprint("canceled at ", n))
		for i := range 3 {
			v := r.volume(fmt.Sprint("v", i), 1<<20)
			for block := range int64(3 - i) {
				wantRead(t, v, block*4096, randomBytes(uint64(i), 4096))
			}
		}
		must(t, r.s.Close())
	}
}

// A search through the records of all segments, or through the content of a damaged one, and a check
// end with their context, wherever that is. What was searched for in part is not taken for absent.
func TestContextEndsSearch(t *testing.T) {
	r := many(t)
	var ops, cancelAt atomic.Int64
	var cancel atomic.Value
	r.open(func(vfs.Op) error {
		if n := ops.Add(1); n == cancelAt.Load() {
			cancel.Load().(context.CancelFunc)()
		}
		return nil
	})
	r.waitIndexed()
	must(t, r.s.Quiesce())
	root := r.s.sb.emptyRoot(32 << 20)
	damaged := r.s.segments.All() // as if they were
	absent := uint64(0)
	for name, call := range map[string]func(ctx context.Context) error{
		"chunk": func(ctx context.Context) error {
			absent++
			h := merkle.Sum(merkle.KindChunk, randomBytes(absent, 8))
			_, _, err := r.s.objects.Locate(ctx, &h, merkle.KindChunk)
			return err
		},
		"root": func(ctx context.Context) error {
			absent++
			_, err := r.s.objects.Root(ctx, merkle.Sum(merkle.KindRoot, randomBytes(absent, 8)), root.Size)
			return err
		},
		"content": func(ctx context.Context) error {
			g := damaged[0]
			objs, err := g.Objects()
			must(t, err)
			at, ok, err := r.s.objects.Salvage(ctx, g, &objs[0].Hash, objs[0].Kind)
			if err != nil {
				return err // another caller looks through it again
			}
			if !ok || at.Location.Block() != objs[0].Block {
				t.Errorf("an object of segment %08x is not found by its content", g.ID)
			}
			damaged = damaged[1:]
			return nil
		},
		"check": func(ctx context.Context) error {
			_, err := r.s.Check(ctx, nil)
			return err
		},
	} {
		at := func(n int64) (later int64, err error) {
			ctx, end := context.WithCancel(t.Context())
			defer end()
			cancel.Store(end)
			ops.Store(0)
			cancelAt.Store(n)
			err = call(ctx)
			return ops.Load() - n, err
		}
		all := int64(1 << 20)
		for n := int64(1); n < all; n += 1 + n/8 {
			later, err := at(n)
			if later < 0 { // it has ended before
				all = n + later
				break
			}
			// The record of one segment or one object, or the records of the store itself.
			if later > 24 || later > 1 && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: canceled at operation %d: %v, after %d more", name, n, err, later)
			}
		}
		if all < 4 {
			t.Errorf("%s: %d operations", name, all)
		}
	}
}
