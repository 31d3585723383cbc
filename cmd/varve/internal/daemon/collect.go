package daemon

import (
	"context"
	"net/http"
	"sync"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// serveCollect collects, and answers with events. With Wait the collection ends when the client goes
// away: what it has freed until then is freed. Without a daemon, and in a dry run, the client always
// waits.
func (q *storeRequests) serveCollect(w http.ResponseWriter, r *http.Request) {
	var req protocol.Collect
	if err := server.Decode(w, r, &req); err != nil {
		server.Refuse(w, err)
		return
	}
	if !req.Wait && !req.DryRun && q.stays {
		q.collections.begin(func(ctx context.Context) {
			// A collection that fails is in the engine's log, and in stat.
			_, _ = q.collect(ctx, objstore.CollectOptions{})
		})
		q.events(w).send(protocol.CollectEvent{Done: &protocol.Collected{}})
		return
	}
	events := q.events(w)
	ended := q.collectProgress(events)
	report, err := q.collect(r.Context(), objstore.CollectOptions{DryRun: req.DryRun})
	ended()
	if err != nil {
		e, _ := protocol.NewError(err)
		events.send(protocol.CollectEvent{Error: e})
		return
	}
	events.send(protocol.CollectEvent{Done: &protocol.Collected{Complete: true, Report: &report}})
}

// collect settles what was written, and collects. What does not settle, because a chunk is damaged
// or there is no room, keeps nothing else from being collected.
func (q *storeRequests) collect(ctx context.Context, o objstore.CollectOptions) (objstore.CollectReport, error) {
	if !o.DryRun {
		if err := q.store.Settle(ctx); err != nil {
			if ctx.Err() != nil {
				return objstore.CollectReport{}, err
			}
			q.log.Warn("not everything has settled before the collection", "error", err)
		}
	}
	return q.store.Collect(ctx, o)
}

// collectProgress sends how far the collection is, until the function that it returns is called.
func (q *storeRequests) collectProgress(events events) (end func()) {
	return repeat(progressEvery, func(context.Context) {
		if st := q.store.CollectState(); st.Phase != objstore.CollectIdle {
			events.send(protocol.CollectEvent{Progress: &st})
		}
	})
}

// collections are those that clients have asked for and do not wait for. One runs at a time; those
// that are asked for meanwhile are one more, since the one that runs may have passed by what they
// are about.
type collections struct {
	mu      sync.Mutex
	running bool
	again   bool
	stop    context.CancelFunc // of the one that runs
	held    bool               // none begins
	done    sync.WaitGroup
}

// begin runs collect in the background.
func (c *collections) begin(collect func(context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running {
		c.again = true
		return
	}
	if c.held {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.running, c.stop = true, cancel
	c.done.Go(func() {
		defer cancel()
		for more := true; more; {
			collect(ctx)
			c.mu.Lock()
			more = c.again && !c.held
			c.again, c.running = false, more
			c.mu.Unlock()
		}
	})
}

// end ends the collection that runs, waits for that, and lets none begin any more.
func (c *collections) end() {
	c.mu.Lock()
	c.held = true
	if c.stop != nil {
		c.stop()
	}
	c.mu.Unlock()
	c.done.Wait()
}
