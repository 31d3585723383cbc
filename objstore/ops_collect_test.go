package objstore

import (
	"context"
	"sync"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/segment"
)

// opCollect collects, under plans that are held, and beside writes that settle: of chunks, too, that
// have just died.
func (w *world) opCollect() {
	if w.mem.WasCut() {
		return
	}
	dry := w.pick(8, "dry run") == 0
	var report CollectReport
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := ctxTimeout()
		defer cancel()
		report, err = w.s.Collect(ctx, CollectOptions{DryRun: dry})
	}()
	var settling sync.WaitGroup
	var settleErr error
	if w.pick(2, "settle beside it") == 0 {
		w.opWrite()
		w.opWrite()
		settling.Go(func() {
			ctx, cancel := ctxTimeout()
			defer cancel()
			settleErr = w.s.Settle(ctx)
		})
		w.opWrite()
	}
	time.Sleep(time.Duration(w.pick(3, "milliseconds")) * time.Millisecond)
	w.readAllHeld()
	settling.Wait()
	<-done
	w.note("collect (dry run: %v): freed %d in %d of %d segments, %d passes: %v; settle: %v", dry, report.Freed, report.Swept, report.Segments, report.Passes, err, settleErr)
	if settleErr != nil && !w.tolerates(settleErr) {
		w.failf("settle beside a collection: %v", settleErr)
	}
	if w.answered(err, "collect") {
		w.counts["collected"]++
		w.counts["collected objects"] += int(report.Dead)
		w.checkObjects()
	}
}

// checkObjects holds the store against what a collection promises: everything that can be reached
// is there, and each place that a list names has the bytes of its object.
func (w *world) checkObjects() {
	defer w.noFaults()()
	var roots []rootOf
	release := func() {}
	err := w.s.catalog.frozen(context.Background(), func() {
		roots = w.s.collector.allRoots()
		release = w.s.collector.hold(roots) // the store may begin a collection itself
	})
	defer func() { release() }()
	if !w.answered(err, "capture roots") {
		return
	}
	seen := map[merkle.Hash]bool{}
	var walk func(h merkle.Hash, level int)
	walk = func(h merkle.Hash, level int) {
		if h.IsZero() || seen[h] || w.mem.WasCut() {
			return
		}
		seen[h] = true
		if level == 0 {
			if _, err := w.s.objects.Read(context.Background(), &h, merkle.KindChunk); err != nil && !w.mem.WasCut() {
				w.failf("a chunk that can be reached: %v", err)
			}
			return
		}
		n, err := w.s.objects.FreshNode(context.Background(), h, level)
		if err != nil {
			if !w.mem.WasCut() {
				w.failf("a node that can be reached: %v", err)
			}
			return
		}
		for _, c := range n {
			walk(c, level-1)
		}
	}
	for _, r := range roots {
		root, err := w.s.objects.RootAt(context.Background(), r.id, r.size, object.Located{})
		if !w.answered(err, "a root") {
			return
		}
		walk(root.Top, root.Depth)
	}
	for _, g := range w.s.segments.All() {
		objs, err := g.Objects()
		if !w.answered(err, "list objects") {
			return
		}
		b := make([]byte, disk.MaxChunkSize)
		for _, o := range objs {
			_, err := g.Data.ReadAt(b[:o.Length], int64(o.Block)*disk.BlockSize)
			if w.mem.WasCut() {
				return
			}
			if err != nil || merkle.Sum(o.Kind, b[:o.Length]) != o.Hash {
				if now, err := g.Objects(); err == nil && !lists(now, o) {
					continue // settling went on meanwhile, or a segment was retired
				}
				w.failf("%s lists %v %v at block %d, and that is not there: %v", segment.Name(g.ID), o.Kind, o.Hash, o.Block, err)
			}
		}
	}
}

func lists(objs []segment.Object, o segment.Object) bool {
	for i := range objs {
		if objs[i] == o {
			return true
		}
	}
	return false
}
