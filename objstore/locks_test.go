package objstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// patience is how long a lock may be held by somebody who does no I/O, on a machine that is very
// busy.
const patience = time.Minute

// lockProbe is a hook of the file layer that reports each operation during which a lock of the
// store's state is held: by whoever does it, or by somebody who waits for a lock of theirs. One
// that somebody else holds for a moment comes free while the operation waits in the hook.
type lockProbe struct {
	s     atomic.Pointer[Store]
	ops   atomic.Int64
	mu    sync.Mutex
	found []string
}

func (p *lockProbe) hook(op vfs.Op) error {
	s := p.s.Load()
	if s == nil {
		return nil
	}
	p.ops.Add(1)
	var at atomic.Pointer[string] // the lock that is waited for
	done := make(chan struct{})
	go func() {
		defer close(done)
		takeStateLocks(s, func(name string) { at.Store(&name) })
	}()
	select {
	case <-done:
	case <-time.After(patience):
		p.mu.Lock()
		defer p.mu.Unlock()
		p.found = append(p.found, fmt.Sprintf("%s over %v in %s", *at.Load(), op.Kind, path.Dir(op.Name)))
		p.s.Store(nil) // one is enough: the next ones would take as long
	}
	return nil
}

// takeStateLocks takes each lock that guards state in memory, and releases it. Those that serialise
// I/O are of another type, queuethread.IOMutex.
func takeStateLocks(s *Store, about func(name string)) {
	take := func(name string, l sync.Locker) {
		about(name)
		l.Lock()
		defer l.Unlock()
	}
	take("catalog.mu", &s.catalog.mu)
	s.catalog.mu.Lock()
	volumes, views := slices.Collect(maps.Values(s.catalog.volumes)), slices.Collect(maps.Keys(s.catalog.views))
	s.catalog.mu.Unlock()
	for _, v := range volumes {
		take("volume.mu", &v.mu)
	}
	for _, w := range views {
		take("View.mu", &w.mu)
	}
	for _, g := range s.segments.All() {
		about("segment.File.mu")
		g.Sealed()
	}
	take("reclaimer.mu", &s.reclaimer.mu)
	take("usage.mu", &s.usage.mu)
	take("watermark.mu", &s.space.mark.mu)
	take("segmentPool.mu", &s.appendPool.mu)
	take("storeIndex.mu", &s.index.mu)
	take("damageBook.reportMu", &s.reportMu)
	about("object.Verified")
	s.objects.Verified.Forget(0)
	take("Store.workersMu", &s.workersMu)
}

// No file operation runs while a lock of the state is held: in none of what is done with names, in
// no step of settling and reclaiming, in no leaf miss, and not at the end of a volume or of the
// store, while lists are asked for.
func TestNoStateLockIsHeldOverFileOperations(t *testing.T) {
	ctx := context.Background()
	probe := &lockProbe{}
	r := newRig(t, Options{LeafCache: smallestLeaves, TailSoft: 1 << 20, TailHard: 4 << 20})
	must(t, r.s.Close())
	r.open(probe.hook)
	s := r.s
	probe.s.Store(s)
	done := make(chan struct{})
	var lists sync.WaitGroup
	lists.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			s.Volumes()
			s.catalog.requests()
			_, _ = s.Snapshots("")
		}
	})
	must(t, s.SetMaxSize(t.Context(), 1<<40))
	for round := range 3 {
		for i := range 2 {
			name := fmt.Sprintf("v%d", i)
			v := r.volume(name, 64<<20)
			for j := range int64(24) {
				r.write(v, randomBytes(uint64(round), 8192), j<<20)
			}
			must(t, v.Flush())
			_, err := s.CreateSnapshot(ctx, name, fmt.Sprintf("s%d", round))
			must(t, err)
			_, err = s.SetVerify(ctx, name, round%2 == 0)
			must(t, err)
			must(t, s.Settle(ctx))
			w, err := s.OpenSnapshot(name, fmt.Sprintf("s%d", round))
			must(t, err)
			for j := range int64(24) { // more leaves than there is room for
				_, err := w.ReadAt(make([]byte, 4096), j<<20)
				must(t, err)
			}
			must(t, w.Close())
			must(t, v.Close())
			if round > 0 {
				must(t, s.DeleteSnapshot(ctx, name, fmt.Sprintf("s%d", round-1)))
			}
		}
		must(t, s.catalog.append(context.Background(), padded(2<<20))) // and the log is written anew
	}
	for i := range 2 {
		must(t, s.DeleteSnapshot(ctx, fmt.Sprintf("v%d", i), "s2"))
		must(t, s.DeleteVolume(ctx, fmt.Sprintf("v%d", i)))
	}
	close(done)
	lists.Wait()
	last := r.volume("last", 1<<20)
	r.write(last, randomBytes(1, 8192), 0)
	must(t, last.Close())
	must(t, s.Close())
	probe.s.Store(nil)
	if len(probe.found) > 0 {
		t.Fatalf("a lock of the state is held: %v", probe.found)
	}
	if n := probe.ops.Load(); n < 500 {
		t.Fatalf("only %d file operations were looked at", n)
	}
}

// While a snapshot of one volume waits for its disk, at whichever sync, another volume is read,
// written, flushed and planned, and its lists are answered.
func TestSnapshotDelaysNoOtherVolume(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{LeafCache: smallestLeaves})
	slow, other := r.volume("slow", 16<<20), r.volume("other", 64<<20)
	r.write(other, randomBytes(1, 32<<20), 0)
	must(t, r.s.Settle(ctx))
	must(t, slow.Close())
	must(t, other.Close())
	must(t, r.s.Close())
	for try, where := range []string{segment.Dir, journal.Dir, refs.Dir} {
		var mine atomic.Pointer[string] // what the snapshot syncs: a file, or what is below a directory
		held, free := make(chan struct{}), make(chan struct{})
		release := sync.OnceFunc(func() { close(free) })
		t.Cleanup(release)
		r.open(func(op vfs.Op) error {
			name := mine.Load()
			if op.Kind == vfs.OpDatasync && name != nil && strings.HasPrefix(op.Name, *name) && mine.CompareAndSwap(name, nil) {
				close(held)
				<-free
			}
			return nil
		})
		slow, other := r.volume("slow", 0), r.volume("other", 0)
		must(t, other.Flush())
		r.write(slow, randomBytes(2, 8192), 0)
		r.write(other, randomBytes(3, 8192), 0) // it has its segment
		name := where
		if where == segment.Dir { // the spare segment may be made at this moment
			name = segment.Name(slow.appendSegment.ID)
		}
		mine.Store(&name)
		made := make(chan error, 1)
		go func() {
			_, err := r.s.CreateSnapshot(ctx, "slow", fmt.Sprintf("s%d", try))
			made <- err
		}()
		<-held
		rest := make(chan error, 1)
		go func() { rest <- useVolume(r.s, other) }()
		select {
		case err := <-rest:
			must(t, err)
		case <-time.After(patience):
			t.Errorf("a snapshot whose sync in %s takes long keeps another volume waiting", where)
			release()
			must(t, <-rest)
			return
		}
		select {
		case err := <-made:
			t.Fatalf("the snapshot was made before its sync in %s had ended: %v", where, err)
		default:
		}
		release()
		must(t, <-made)
		must(t, slow.Close())
		must(t, other.Close())
		must(t, r.s.Close())
	}
	r.o.Index = index.NewMem()
	r.open(nil)
	if list, err := r.s.Snapshots("slow"); err != nil || len(list) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
}

// useVolume reads, writes and flushes more of a volume than there are leaves in memory, and asks
// for lists.
func useVolume(s *Store, v *Volume) error {
	for i := range int64(12) {
		if _, err := v.WriteAt(randomBytes(4, 8192), i<<20); err != nil {
			return err
		}
		if _, err := v.ReadAt(make([]byte, 4096), i<<20+512<<10); err != nil {
			return err
		}
	}
	if err := v.Flush(); err != nil {
		return err
	}
	if got := len(s.Volumes()); got < 2 {
		return fmt.Errorf("%d volumes", got)
	}
	again, err := s.OpenVolume(v.Name(), "again")
	if err != nil {
		return err
	}
	return again.Close()
}

// Whatever one volume does, and whichever of the file operations of that takes long, another volume
// is read, written and flushed meanwhile.
func TestOneVolumeHoldsUpNoOther(t *testing.T) {
	ctx := context.Background()
	const tail = 6 << 20
	for name, act := range map[string]func(s *Store, v *Volume, n int) error{
		"flush": func(_ *Store, v *Volume, _ int) error { return v.Flush() },
		"snapshot": func(s *Store, _ *Volume, n int) error {
			_, err := s.CreateSnapshot(ctx, "slow", fmt.Sprintf("s%d", n))
			return err
		},
		"settling": func(s *Store, v *Volume, _ int) error {
			gen, err := v.freeze()
			if err == nil {
				err = s.settler.waitSettled(ctx, v.volume, gen)
			}
			if err == nil {
				err = s.waitReclaimed(ctx, v.volume)
			}
			return err
		},
		"deletion": func(s *Store, _ *Volume, n int) error {
			gone := fmt.Sprintf("gone%d", n)
			_, err := s.CreateVolume(ctx, gone, VolumeOptions{Size: 1 << 20})
			if err != nil {
				return err
			}
			v, err := s.OpenVolume(gone, "test")
			if err != nil {
				return err
			}
			_, err = v.WriteAt(randomBytes(uint64(n), 64<<10), 0)
			return errors.Join(err, v.Close(), s.DeleteVolume(ctx, gone))
		},
		"full tail": func(_ *Store, v *Volume, n int) error {
			for range 2 * tail >> 20 {
				if _, err := v.WriteAt(randomBytes(uint64(n), 1<<20), 0); err != nil {
					return err
				}
			}
			return nil
		},
		"clone": func(s *Store, _ *Volume, n int) error {
			_, err := s.CloneVolume(ctx, "slow", "", fmt.Sprintf("clone%d", n))
			return err
		},
		"rollback": func(s *Store, _ *Volume, n int) error {
			return errors.Join(idleVolume(s, n), func() error {
				_, err := s.RollbackVolume(ctx, fmt.Sprintf("idle%d", n), "first", RollbackOptions{})
				return err
			}())
		},
		"resize": func(s *Store, _ *Volume, n int) error {
			_, err := s.ResizeVolume(ctx, "slow", int64(17+n)<<20, ResizeOptions{})
			return err
		},
		"shrink": func(s *Store, _ *Volume, n int) error {
			return errors.Join(idleVolume(s, n), func() error {
				_, err := s.ResizeVolume(ctx, fmt.Sprintf("idle%d", n), 32<<10, ResizeOptions{Shrink: true})
				return err
			}())
		},
		"rename": func(s *Store, _ *Volume, n int) error {
			_, err := s.RenameVolume(ctx, "slow", fmt.Sprintf("renamed%d", n))
			if err == nil {
				_, err = s.RenameVolume(ctx, fmt.Sprintf("renamed%d", n), "slow")
			}
			return err
		},
		"deletion of a snapshot": func(s *Store, _ *Volume, n int) error {
			name := fmt.Sprintf("gone%d", n)
			_, err := s.CreateSnapshot(ctx, "slow", name)
			return errors.Join(err, s.DeleteSnapshot(ctx, "slow", name))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{LeafCache: smallestLeaves, SettleDelay: -1, TailSoft: tail / 2, TailHard: tail})
			must(t, r.s.Close())
			gate := &opGate{}
			t.Cleanup(gate.open)
			r.open(gate.hook)
			slow, other := r.volume("slow", 16<<20), r.volume("other", 64<<20)
			r.write(other, randomBytes(1, 16<<20-1<<20), 0)
			must(t, r.s.Settle(ctx))
			for n := 0; ; n++ {
				r.write(slow, randomBytes(uint64(n+2), 8192), 0)
				must(t, other.waitSegment(ctx)) // a new file is waited for by those who need one
				held := gate.close(n)
				acted := make(chan error, 1)
				go func() { acted <- act(r.s, slow, n) }()
				select {
				case <-held:
				case err := <-acted: // it has fewer operations
					must(t, err)
					gate.open()
					if n < 2 {
						t.Fatalf("only %d operations were held", n)
					}
					t.Logf("%d operations", n)
					return
				}
				used := make(chan error, 1)
				go func() { used <- useVolume(r.s, other) }()
				select {
				case err := <-used:
					must(t, err)
				case <-time.After(patience):
					t.Errorf("operation %d of it, %v, keeps another volume waiting", n, gate.at.Load())
					gate.open()
					must(t, <-used)
				}
				gate.open()
				must(t, <-acted)
			}
		})
	}
}

// idleVolume makes a volume that nobody has open, with a snapshot and something written since.
func idleVolume(s *Store, n int) error {
	name := fmt.Sprintf("idle%d", n)
	if _, err := s.CreateVolume(context.Background(), name, VolumeOptions{Size: 1 << 20}); err != nil {
		return err
	}
	v, err := s.OpenVolume(name, "test")
	if err != nil {
		return err
	}
	_, err = v.WriteAt(randomBytes(uint64(n), 64<<10), 0)
	_, serr := s.CreateSnapshot(context.Background(), name, "first")
	_, werr := v.WriteAt(randomBytes(uint64(n+1), 64<<10), 4096)
	return errors.Join(err, serr, werr, v.Close())
}

// opGate is a hook that holds one operation until it is opened: the n-th that makes something
// durable, takes room or gives room back, from when it was closed.
type opGate struct {
	mu   sync.Mutex
	left int           // operations up to the one that is held; 0: none is
	held chan struct{} // closed when one is held
	free chan struct{} // closed by open
	at   atomic.Pointer[vfs.Op]
}

func (g *opGate) close(n int) (held <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left, g.held, g.free = n+1, make(chan struct{}), make(chan struct{})
	return g.held
}

func (g *opGate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.free != nil {
		close(g.free)
	}
	g.left, g.free = 0, nil
}

func (g *opGate) hook(op vfs.Op) error {
	switch op.Kind {
	case vfs.OpDatasync, vfs.OpSyncDir, vfs.OpAllocate, vfs.OpPunch, vfs.OpRemove, vfs.OpCreate:
	default:
		return nil
	}
	g.mu.Lock()
	if g.left == 0 {
		g.mu.Unlock()
		return nil
	}
	g.left--
	last, held, free := g.left == 0, g.held, g.free
	g.mu.Unlock()
	if last {
		g.at.Store(&op)
		close(held)
		<-free
	}
	return nil
}
