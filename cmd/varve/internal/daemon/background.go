package daemon

import (
	"context"
	"sync"
	"time"
)

// background is work that the daemon does on its own, one pass at a time, unless it is held. It is
// safe for concurrent use.
type background struct {
	mu    sync.Mutex
	holds int                // calls of hold without their release
	stop  context.CancelFunc // of the pass that runs; nil: none
	ended chan struct{}      // closed when that pass has ended
}

// run calls pass with a context that hold cancels. It returns false, without calling pass, while
// the work is held or another pass runs.
func (b *background) run(ctx context.Context, pass func(context.Context)) bool {
	b.mu.Lock()
	if b.holds > 0 || b.stop != nil {
		b.mu.Unlock()
		return false
	}
	ctx, b.stop = context.WithCancel(ctx)
	b.ended = make(chan struct{})
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.stop()
		b.stop = nil
		close(b.ended)
	}()
	pass(ctx)
	return true
}

// hold cancels the running pass and waits for its end. No pass begins until release.
func (b *background) hold() {
	b.mu.Lock()
	b.holds++
	if b.stop == nil {
		b.mu.Unlock()
		return
	}
	b.stop()
	ended := b.ended
	b.mu.Unlock()
	<-ended
}

// release undoes one hold.
func (b *background) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holds--
}

// repeat calls f at each interval until end is called, which cancels the context of f and waits for
// f to return.
func repeat(interval time.Duration, f func(context.Context)) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				f(ctx)
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}
