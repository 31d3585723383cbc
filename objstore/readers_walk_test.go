package objstore

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// unlockHook is a lock that calls a function behind its first Unlock.
type unlockHook struct {
	sync.Locker
	once sync.Once
	f    func()
}

func (l *unlockHook) Unlock() {
	l.Locker.Unlock()
	l.once.Do(l.f)
}

// A reader that loads leaves of a base gets them, although the base is replaced meanwhile, and what
// it was the root of is collected.
func TestLoadFromBaseThatIsReplaced(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 64<<20)
	for i := range int64(4) {
		r.write(v, randomBytes(uint64(i+1), 1<<20), i<<20)
	}
	must(t, r.s.Settle(t.Context()))
	must(t, v.Close())
	r.end("closed") // seals the segments, and nothing is in the caches
	r.open(nil)
	v = r.volume("a", 64<<20)
	collected := make(chan error, 1)
	mu := &unlockHook{Locker: &v.mu, f: func() {
		must(t, v.Zero(0, 64<<20))
		must(t, r.s.settler.waitSettled(t.Context(), v.volume, mustFreeze(t, v)))
		go func() {
			_, err := r.s.Collect(context.Background(), CollectOptions{})
			collected <- err
		}()
		select { // it waits for this reader, or has freed what the reader is about to read
		case err := <-collected:
			collected <- err
		case <-time.After(300 * time.Millisecond):
		}
	}}
	if err := r.s.leaves.load(t.Context(), mu, func() *base { return v.base }, 0, 1<<20); err != nil {
		t.Errorf("a read beside a collection: %v", err)
	}
	must(t, <-collected)
	r.holds(v, make([]byte, 4<<20), 0)
}

// Whoever walks from the root of a base holds a pin from before the first node until after the last:
// the base may be replaced on the way.
func TestWalksHoldPlaces(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 1<<30)
	r.write(v, randomBytes(1, 4096), 0)
	must(t, r.s.Settle(t.Context()))
	walks := map[string]func(v *Volume) error{
		"load":  func(v *Volume) error { return v.Load(t.Context(), 0, 4096) },
		"holes": func(v *Volume) error { _, err := v.emptyUntil(t.Context(), 0); return err },
	}
	for name, walk := range walks {
		t.Run(name, func(t *testing.T) {
			must(t, v.Close())
			r.end("closed")
			var armed atomic.Bool
			var mu sync.Mutex
			var pins []*segment.Pin // that were current when a node was read
			early := 0
			r.open(func(op vfs.Op) error {
				if !armed.Load() || op.Kind != vfs.OpRead || !strings.HasPrefix(op.Name, segment.Dir) {
					return nil
				}
				mu.Lock()
				defer mu.Unlock()
				for _, p := range pins {
					if isDone(p) {
						early++
					}
				}
				pins = append(pins, r.s.readers.lookups.Replace())
				return nil
			})
			v = r.volume("a", 1<<30)
			armed.Store(true)
			err := walk(v)
			armed.Store(false)
			must(t, err)
			mu.Lock()
			defer mu.Unlock()
			if len(pins) < 2 || early > 0 {
				t.Errorf("of %d reads, the pins of %d were given up before the next read", len(pins), early)
			}
		})
	}
}
