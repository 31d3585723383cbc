package objstore

import (
	"context"
	"fmt"
	"path"
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

// patience is how long a lock may be held by somebody who does no I/O, on a machine that is very busy.
const patience = 30 * time.Second

// lockProbe is a hook of the file layer that reports each operation as long as which a store's state lock is held: by
// whoever does it, or by somebody who waits for a lock of his. One that is held for a moment by somebody else comes free
// while the operation waits in the hook.
type lockProbe struct {
	s     atomic.Pointer[Store]
	ops   atomic.Int64
	mu    sync.Mutex
	found map[string]bool
}

func (p *lockProbe) hook(op vfs.Op) error {
	s := p.s.Load()
	if s == nil {
		return nil
	}
	p.ops.Add(1)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Microsecond) {
		if s.catalog.mu.TryLock() {
			s.catalog.mu.Unlock()
			return nil
		}
		if time.Now().After(deadline) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.found == nil {
				p.found = map[string]bool{}
			}
			p.found[op.Kind.String()+" in "+path.Dir(op.Name)] = true
			p.s.Store(nil) // one is enough: the next ones would take as long
			return nil
		}
	}
}

// No file operation runs while catalog.mu is held: in none of what is done with names, in no step of settling, and in no
// leaf miss, while lists are asked for.
func TestStoreLockIsNotHeldOverFileOperations(t *testing.T) {
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
			s.requests()
			_, _ = s.Snapshots("")
		}
	})
	must(t, s.SetMaxSize(1<<40))
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
		must(t, s.catalog.append(padded(2<<20))) // and the log is written anew
	}
	for i := range 2 {
		must(t, s.DeleteSnapshot(ctx, fmt.Sprintf("v%d", i), "s2"))
		must(t, s.DeleteVolume(ctx, fmt.Sprintf("v%d", i)))
	}
	close(done)
	lists.Wait()
	probe.s.Store(nil)
	if len(probe.found) > 0 {
		t.Fatalf("catalog.mu is held over %v", sortedKeys(probe.found))
	}
	if n := probe.ops.Load(); n < 500 {
		t.Fatalf("only %d file operations were looked at", n)
	}
}

// While a snapshot of one volume waits for its disk, at whichever sync, another volume is read, written, flushed and
// planned, and its lists are answered.
func TestSnapshotInNobodysWay(t *testing.T) {
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

// useVolume reads, writes and flushes more of a volume than there are leaves in memory, and asks for lists.
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
	if got := len(s.Volumes()); got != 2 {
		return fmt.Errorf("%d volumes", got)
	}
	again, err := s.OpenVolume(v.Name(), "again")
	if err != nil {
		return err
	}
	return again.Close()
}
