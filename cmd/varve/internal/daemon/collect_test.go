package daemon

import (
	"context"
	"testing"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// A client that waits hears how far the collection is, and what it has done; a dry run is always
// waited for.
func TestCollect(t *testing.T) {
	w := newWorld(t, "a")
	w.store.checkTakes = 2 * progressEvery
	var heard []objstore.CollectState
	done, err := w.c.Collect(t.Context(), protocol.Collect{Wait: true}, func(st objstore.CollectState) { heard = append(heard, st) })
	if err != nil || !done.Complete || done.Report == nil || done.Report.Freed != 4096 {
		t.Errorf("waiting: %+v, %v", done, err)
	}
	if len(heard) == 0 || heard[0].Phase != objstore.CollectSweeping || heard[0].Total != 2 {
		t.Errorf("heard %+v", heard)
	}
	w.store.checkTakes = 0
	done, err = w.c.Collect(t.Context(), protocol.Collect{DryRun: true}, func(objstore.CollectState) {})
	if err != nil || !done.Complete || !done.Report.DryRun {
		t.Errorf("a dry run: %+v, %v", done, err)
	}
}

// Nobody waits for collections in the background, which are run one after the other: what is asked
// for while one runs is one more. They end with the daemon.
func TestCollectInBackground(t *testing.T) {
	w := newWorld(t, "a")
	w.store.checkTakes, w.store.collectGoesOn = time.Minute, make(chan struct{})
	count := func() int {
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		return len(w.store.collected)
	}
	for range 5 {
		if done, err := w.c.Collect(t.Context(), protocol.Collect{}, nil); err != nil || done.Complete {
			t.Fatalf("in the background: %+v, %v", done, err)
		}
	}
	w.store.collectGoesOn <- struct{}{} // the first ends
	eventually(t, "one more collection", func() bool { return count() == 2 })
	w.store.collectGoesOn <- struct{}{}
	time.Sleep(200 * time.Millisecond)
	if n := count(); n != 2 {
		t.Errorf("%d collections, want 2", n)
	}
	if _, err := w.c.Collect(t.Context(), protocol.Collect{}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a long collection", func() bool { return count() == 3 })
	w.d.requests.collections.end()
	if _, err := w.c.Collect(t.Context(), protocol.Collect{}, nil); err != nil || count() != 3 {
		t.Errorf("after the end: %v, %d collections", err, count())
	}
}

// A collection that a client waits for ends when the client goes away.
func TestCollectEndsWithClient(t *testing.T) {
	w := newWorld(t, "a")
	w.store.checkTakes = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	began := time.Now()
	if _, err := w.c.Collect(ctx, protocol.Collect{Wait: true}, func(objstore.CollectState) {}); err == nil {
		t.Error("a client that went away has an answer")
	}
	if took := time.Since(began); took > w.store.checkTakes/2 {
		t.Errorf("the client waited %v", took)
	}
}
