package objstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/mark"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// collector frees objects that can't be reached from any root. It marks what can be reached in a
// filter (package mark), and sweeps the sealed segments: objects that are not in the filter are
// taken out of the segments' lists (segment.File.Shrink), and punched.
//
// A cycle, which is repeated for each part of all hashes if the filter's memory is bounded:
//
//	1  barrier  the filter is there: from here on, a settling adds each hash to it before it looks
//	            whether the store has the object, or stores it (keep)
//	2  wait     for the settlings that began before 1
//	3  roots    captured under both locks of the catalog, with no record between decision and effect
//	4  wait     for readers that began before 3: plans of bases that are no roots any more
//	5  mark     walk the trees below the roots, each node once
//	6  sweep    each sealed segment: out of its list, durably; wait for those who have just looked there;
//	            punch; seal again; out of the index
//
// Nothing is kept between cycles: a cycle that a crash cuts off is forgotten, but for a segment in
// step 6, which opening seals again.
//
// Invariants:
//
//   - What is published is in the filter, or below a captured root: roots that settlings publish after
//     3 are of settlings that began after 1, and what they took over unchanged is below the base that
//     they began with, which was published before or is of such a settling too.
//   - A settling does not come to refer to an object that is taken out of a list: keep precedes its
//     look-up, and Shrink asks the filter under the same lock that the look-up takes. Either the
//     filter has the hash, or the look-up misses, and the settling stores the object anew.
//   - A hash is alive or dead as a whole: a location of a live object stays, even if the object has
//     several and something holds only one of them, as leaves in memory do.
//   - Nothing is freed if anything is unclear: an unreadable node, a refused volume, a record in the
//     log of names that can't be taken back, a store that is read-only. Damaged segments are left
//     alone.
//   - No lock that a request waits for is held over I/O, nor while waiting.
//
// running is held by a cycle. mu is never held over I/O; it is taken after catalog.mu.
type collector struct {
	s        *Store
	throttle collectRate

	running lockorder.IOMutex[lockorder.Collecting]
	marks   atomic.Pointer[mark.Filter] // where settlings note what they refer to; nil: no cycle runs
	sources []rootSource

	waiting atomic.Int64 // requests that wait for a cycle to make room, since settling makes none
	suspect atomic.Int64 // bytes that may have died since the last cycle
	left    atomic.Int64 // bytes of dead objects that the last cycle has left, since they are scattered
	futile  atomic.Int64 // bytes that may have been dead when a cycle ended that could free little or nothing of them

	mu        lockorder.Mutex[lockorder.Memory]
	life      context.Context //nolint:containedctx // of housework; nil or ended: nothing is collected
	settlings map[*settlingRun]struct{}
	held      map[*heldRoots]struct{}
	state     CollectState
}

// settlingRun is a settling under way.
type settlingRun struct{ ended chan struct{} }

func newCollector(s *Store) *collector {
	c := &collector{s: s, settlings: map[*settlingRun]struct{}{}, held: map[*heldRoots]struct{}{}}
	c.state.Phase = CollectIdle
	c.throttle.set(s.opts.CollectRate)
	c.sources = []rootSource{
		s.catalog.namedRoots, s.catalog.openRoots, s.readers.roots, c.heldRoots,
		func(yield func(merkle.Hash, int64)) { s.catalog.past.roots(yield) },
		func(yield func(merkle.Hash, int64)) { s.accounting.roots(yield) },
	}
	return c
}

// settle notes that a settling begins. It calls the function returned when it has ended, published
// or failed.
func (c *collector) settle() (ended func()) {
	run := &settlingRun{ended: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settlings[run] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.settlings, run)
		close(run.ended)
	}
}

// keep keeps an object that a settling is about to look for, or to store, from being collected by
// the cycle under way. It never blocks.
func (c *collector) keep(h *merkle.Hash) {
	if f := c.marks.Load(); f != nil {
		f.Add(h)
	}
}

// cycleOptions are those of one cycle.
type cycleOptions struct {
	dryRun bool
	full   bool // also what is hardly worth the writing of a segment's list
}

// cycle is a collection under way.
type cycle struct {
	*collector
	cycleOptions
	seed     mark.Seed
	filter   *mark.Filter
	limits   segment.HoleLimits
	surveyor segment.Surveyor
	lastPass bool
	noRoom   error                     // ErrNoSpace of a list that was to be written: until some room is made, no other is tried
	unfreed  error                     // why something else was not freed in this round: a segment not sealed, or not unlinked
	allDead  []*segment.File           // sealed ones of this pass in which nothing is alive
	weighed  map[*segment.File]weighed // the segments as the sweep has left them, or would in a dry run
	swept    map[uint32]bool           // the segments that dead objects were taken out of, in any pass
	report   CollectReport
}

// errHeldBack is why nothing is collected while a volume is refused.
var errHeldBack = errors.New("a volume is damaged, and what it needs is not known; repair or delete it")

// collect runs one cycle.
func (c *collector) collect(ctx context.Context, o cycleOptions) (CollectReport, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.running.LockContext(ctx); err != nil {
		return CollectReport{DryRun: o.dryRun}, fmt.Errorf("collect: %w", err)
	}
	defer c.running.Unlock()
	life := c.lifeFor(o)
	if life == nil || life.Err() != nil {
		return CollectReport{DryRun: o.dryRun}, fmt.Errorf("collect: %w", ErrClosed)
	}
	defer context.AfterFunc(life, cancel)()
	c.mu.Lock()
	c.state.DryRun = o.dryRun
	c.mu.Unlock()
	y := &cycle{collector: c, cycleOptions: o, seed: mark.NewSeed(), swept: map[uint32]bool{}}
	y.report.DryRun, y.report.Started = o.dryRun, c.s.opts.Now().UTC()
	start := time.Now()
	before := c.suspect.Load()
	c.throttle.begin()
	var err error
	atLowPriority(c.s.opts.CollectNice, func() { err = y.run(ctx) })
	y.report.Seconds = time.Since(start).Seconds()
	if err == nil && !o.dryRun {
		c.suspect.Add(-before) // what has died meanwhile may not have been seen
		c.s.rebuildWastefulIndex()
	}
	if err != nil && life.Err() != nil {
		err = ErrClosed
	}
	if !o.dryRun {
		c.noteLeft(&y.report, err)
	}
	c.finish(&y.report, err)
	if err != nil {
		return y.report, fmt.Errorf("collect: %w", err)
	}
	return y.report, nil
}

// run does all passes.
func (y *cycle) run(ctx context.Context) error {
	if err := y.mayFree(); err != nil {
		return err
	}
	if err := y.letGo(ctx); err != nil {
		return err
	}
	if err := y.setLimits(); err != nil {
		return err
	}
	objects := y.countObjects()
	memory := y.s.opts.CollectMemory - y.walkMemory()
	passes := mark.Passes(objects, memory)
	size := objects
	if 2*objects <= min(memory, roomyFilter) {
		size *= 2
	}
	defer y.marks.Store(nil)
	for part := range passes {
		y.filter, y.lastPass = mark.NewFilter(y.seed, size, part, passes), part == passes-1
		if err := y.pass(ctx); err != nil {
			return err
		}
		y.report.Passes++
	}
	y.report.Objects = objects
	return nil
}

// pass does steps 1 to 6 for one part of all hashes.
func (y *cycle) pass(ctx context.Context) error {
	y.enter(CollectWaiting, 0)
	y.marks.Store(y.filter)
	if err := y.waitSettlings(ctx); err != nil {
		return err
	}
	failpoint.Here(failpoint.CollectBarrier)
	roots, err := y.roots(ctx)
	if err != nil {
		return err
	}
	if err := y.s.readers.wait(ctx); err != nil {
		return err
	}
	if err := y.mark(ctx, roots); err != nil {
		return err
	}
	failpoint.Here(failpoint.CollectMarked)
	return y.free(ctx)
}

// free sweeps and evacuates, and does so again as long as that makes room, on a disk that has too
// little to go on. When it makes none, the ballast is given up, once.
func (y *cycle) free(ctx context.Context) error {
	for dropped := false; ; {
		before := y.report.Freed
		if err := y.sweep(ctx); err != nil {
			return err
		}
		if y.dryRun {
			return y.foretellEvacuation()
		}
		if err := y.evacuate(ctx); err != nil {
			return err
		}
		err := cmp.Or(y.noRoom, y.unfreed)
		if err == nil {
			return nil
		}
		if y.report.Freed <= before {
			if dropped || !errors.Is(err, ErrNoSpace) || !y.s.ballast.drop() {
				return fmt.Errorf("not all that is dead could be freed; %d bytes were: %w", y.report.Freed, err)
			}
			dropped = true
		}
		y.noRoom, y.unfreed, y.report.Kept = nil, nil, 0
	}
}

// setLimits says which holes are punched.
func (y *cycle) setLimits() error {
	y.limits = segment.HoleLimits{Shortest: y.s.opts.shortestHole, Most: mostHoles}
	frees, err := y.s.sealer.punchFrees()
	if !frees {
		y.limits.Shortest = max(y.limits.Shortest, wholeExtents)
	}
	return err
}

// mayFree returns why nothing may be freed now, or nil.
func (y *cycle) mayFree() error {
	if y.s.hold.Load() {
		return errHeldBack
	}
	if y.dryRun {
		return nil
	}
	return y.s.writeError()
}

// letGo has those let go of roots that keep them a while longer than their names. Where that can't
// be done, these roots are roots of this cycle too.
func (y *cycle) letGo(ctx context.Context) error {
	if !y.dryRun && y.full {
		y.s.saveHistory()
	}
	if err := y.s.accounting.letGo(ctx); err != nil && ctx.Err() == nil {
		y.s.log.Warn("what was deleted may stay until the next collection", "error", err)
	}
	return ctx.Err()
}

// countObjects returns how many objects the store has at most, and some more for those that come
// while a cycle runs.
func (y *cycle) countObjects() int64 {
	n := int64(1<<12) + y.s.listedObjects()
	return n + n/16
}

// listedObjects returns how many objects the segments' lists have.
func (s *Store) listedObjects() (n int64) {
	for _, g := range s.segments.All() {
		n += g.FooterSize()/segment.ObjectSize + g.OpenCount()
	}
	return n
}

// waitSettlings waits for the settlings that are under way.
func (y *cycle) waitSettlings(ctx context.Context) error {
	y.mu.Lock()
	var runs []*settlingRun
	for run := range y.settlings {
		runs = append(runs, run)
	}
	y.mu.Unlock()
	for _, run := range runs {
		select {
		case <-run.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// mark adds to the filter what can be reached from the roots.
func (y *cycle) mark(ctx context.Context, roots []rootOf) error {
	y.enter(CollectMarking, int64(len(roots)))
	y.report.Roots = len(roots)
	read := func(ctx context.Context, h merkle.Hash, level int, room *merkle.Node) (*merkle.Node, error) {
		if err := y.pace(ctx, merkle.NodeSize); err != nil {
			return nil, err
		}
		y.report.Read += merkle.NodeSize
		return y.s.objects.PeekNodeInto(ctx, h, level, room)
	}
	w := mark.NewWalker(read, y.filter.Add, y.s.stored.nodes.Load()/disk.BlockSize, y.walkMemory())
	y.report.Memory = y.filter.Bytes() + w.Bytes()
	lost := map[merkle.Hash]bool{} // roots
	var why error                  // the first
	for _, r := range roots {
		root, err := y.s.objects.Root(ctx, r.id, r.size)
		if err == nil {
			y.filter.Add(&r.id)
			err = w.Tree(ctx, root)
		}
		if err != nil && !disk.Damaged(err) {
			return fmt.Errorf("nothing is freed, since the tree of root %v can't be read: %w", r.id, err)
		}
		if err != nil { // the others, too, are to be named
			lost[r.id], why = true, cmp.Or(why, err)
		}
		y.progress(1)
	}
	y.report.Nodes = w.Nodes()
	if why != nil {
		return fmt.Errorf("nothing is freed, since nobody knows what is alive below a part that is lost of %s: %w; "+
			"once that is deleted, or written over or discarded there, collections go on; varve check says where it is",
			y.s.catalog.holders(lost), why)
	}
	return nil
}

// walkMemory is the part of Options.CollectMemory for the nodes that were visited, in bytes; the
// rest is for the filter.
func (y *cycle) walkMemory() int64 { return y.s.opts.CollectMemory / 4 }

// pace keeps to the rate, unless room is short.
func (y *cycle) pace(ctx context.Context, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if y.s.space.lowSpace.Load() || y.s.space.waiting.Load() > 0 {
		return nil
	}
	return y.throttle.take(ctx, n)
}

// enter begins a phase of total steps.
func (c *collector) enter(phase CollectPhase, total int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Phase, c.state.Done, c.state.Total = phase, 0, total
}

func (c *collector) progress(done int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Done += done
}

// finish notes how a cycle has ended.
func (c *collector) finish(r *CollectReport, err error) {
	c.mu.Lock()
	c.state.Phase, c.state.Done, c.state.Total, c.state.Freed, c.state.DryRun = CollectIdle, 0, 0, 0, false
	c.state.Error = ""
	switch {
	case err != nil:
		c.state.Error = err.Error()
	case !r.DryRun:
		last := *r
		c.state.Last, c.state.LastEnd = &last, c.s.opts.Now().UTC()
	}
	c.mu.Unlock()
	if err == nil && !r.DryRun {
		c.s.upkeep.collected(r)
	}
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, ErrClosed):
	case err != nil:
		c.s.log.Warn("a collection was not completed", "freed", r.Freed, "error", err)
	case !r.DryRun:
		c.s.log.Info("collected", "freed", r.Freed, "objects", r.Dead, "segments", r.Swept, "of_segments", r.Segments, "kept", r.Kept,
			"seconds", r.Seconds)
	}
}

func (c *collector) stateNow() CollectState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// start allows cycles until ctx ends.
func (c *collector) start(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life = ctx
}

// lifeFor returns the context that ends a cycle; nil: none may run. A store that is only looked at
// has no housework, and allows dry runs.
func (c *collector) lifeFor(o cycleOptions) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life == nil && o.dryRun && c.s.opts.LookOnly {
		return c.s.ctx
	}
	return c.life
}

// stop waits for the cycle under way, after the context of start has ended.
func (c *collector) stop() {
	c.running.Lock()
	c.running.Unlock() //nolint:staticcheck // only the wait
}

// damagedOrBusy tells the errors of one segment, after which the others can be swept, from those
// that end a cycle.
func damagedOrBusy(err error) bool {
	return disk.Damaged(err) || errors.Is(err, segment.ErrListChanged)
}
