package objstore

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/edges"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
)

const (
	accountingPause = 250 * time.Millisecond // at least, between two looks at what has changed
	accountingShare = 50                     // times as long as the look at all names took, at least
	accountingRetry = time.Minute            // after a failure
	accountingTurn  = 64                     // nodes that are read between two pauses
)

// accounting counts the references between the objects of all named roots (package edges), to tell
// what an image takes, what it has for itself, and what deleting some would free.
//
// It follows the names, wherever they come from: a sync compares the roots that have a name with
// those whose edges are counted, adds the new ones and takes away the old ones. Only what differs
// is visited. So no settling, deletion or clone waits for the counts; each only tells the
// accounting that something has changed (ask). The counts are in memory alone: they are made after
// each opening, by a walk of all tree nodes that leaves half of the time to others.
//
// Nothing is freed because of a count. Removing a root reads its nodes, which nothing else may
// refer to any more: they must stay until then, and roots says whose.
//
// Invariants:
//
//   - Between two syncs, graph has exactly the edges of the roots in counted. After an error there
//     is no graph, and the next sync starts again.
//   - held has every root in counted, and before the walk of a root begins it has that too.
//   - unique, history and names belong to the graph as it is now.
type accounting struct {
	catalog   *catalog
	objects   *object.Reader
	chunkSize int
	limit     int64       // bytes of memory that counts of chunks may take
	ready     func() bool // the index is complete, so that finding a node is one look-up
	log       *slog.Logger

	ctx        context.Context   //nolint:containedctx // the life of the store, ended by Close
	background func(func()) bool // runs a function on a goroutine that Close waits for; false: the store is being closed

	asked   chan struct{}
	looking atomic.Int64              // nanoseconds that the last look at all names took
	waiting atomic.Int64              // callers that wait for the counts: work without pauses
	live    atomic.Pointer[liveBytes] // as of the last sync; nil: not counted yet
	changes atomic.Int64              // calls of ask
	seen    atomic.Int64              // how many of them the last sync has seen

	mu         lockorder.IOMutex[lockorder.Accounting]
	graph      *edges.Graph // nil: to be made
	counted    map[merkle.Hash]*merkle.Root
	names      map[merkle.Hash]int        // of the roots in counted
	unique     map[merkle.Hash]freedBytes // of roots that were asked for, and have one name
	history    map[uuid.UUID]pastUse      // of volumes that were asked for; of all under uuid.Nil
	generation int64                      // of repairs, when the graph was made

	heldMu lockorder.Mutex[lockorder.Memory]
	held   map[merkle.Hash]int64 // roots whose nodes must stay, and the sizes of their images
}

// liveBytes is what the objects that something refers to take.
type liveBytes struct {
	edges.Bytes
	treeLength int64 // of the tree, without what rounding up to blocks adds
	exact      bool
	history    *freedBytes // what of it only past states have; nil: not counted
}

// namedRoot is a root that has a name.
type namedRoot struct {
	size  int64 // of the image, bytes
	names int
}

// eachRoot calls f for each name of a settled root, of scratch volumes and past states too.
// REQUIRES: mu is held.
func (c *catalog) eachRoot(f func(root merkle.Hash, size int64)) {
	for _, v := range c.refs.ByID {
		f(c.refs.RootOf(v), v.Size)
		for _, sn := range v.Order {
			if sn.Settled {
				f(sn.Root, sn.Size)
			}
		}
		for _, p := range c.past.of(v.ID) {
			f(p.snap.Root, p.snap.Size)
		}
	}
}

// ask has the counts brought up to date soon. It never blocks.
func (a *accounting) ask() {
	a.changes.Add(1)
	select {
	case a.asked <- struct{}{}:
	default:
	}
}

// behind reports whether names may have changed since the last sync. It never blocks.
func (a *accounting) behind() bool { return a.seen.Load() != a.changes.Load() }

// run keeps the counts up to date until ctx ends.
func (a *accounting) run(ctx context.Context) {
	wait := accountingPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.asked:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if wait = max(accountingPause, accountingShare*time.Duration(a.looking.Load())); !a.ready() {
			a.ask()
			continue
		}
		if err := a.count(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("the shares of images are unknown; counting is retried", "in", accountingRetry, "error", err)
			wait = accountingRetry
			a.ask()
		}
	}
}

// count brings the counts up to date with the names. If ctx ends meanwhile, they have to be made
// anew.
func (a *accounting) count(ctx context.Context) error {
	if err := a.mu.LockContext(ctx); err != nil {
		return err
	}
	defer a.mu.Unlock()
	return a.sync(ctx)
}

// upToDate brings the counts up to date with the names as they are now. When ctx ends it returns,
// and the counting that it has begun continues: a caller that gives up must not cost what was
// counted.
func (a *accounting) upToDate(ctx context.Context) error {
	done := make(chan error, 1)
	open := a.background(func() {
		err := a.mu.LockContext(ctx)
		if err == nil {
			err = a.sync(a.ctx)
			a.mu.Unlock()
		}
		done <- err
	})
	if !open {
		return errCountingClosed
	}
	select {
	case err := <-done:
		if err != nil && a.ctx.Err() != nil {
			return errCountingClosed
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errCountingClosed = fmt.Errorf("count references: %w", ErrClosed)

// lock brings the counts up to date with the names as they are now, or later, and locks mu. After
// an error mu is not locked.
func (a *accounting) lock(ctx context.Context) error {
	for {
		if err := a.upToDate(ctx); err != nil {
			return err
		}
		if err := a.mu.LockContext(ctx); err != nil {
			return err
		}
		if a.graph != nil {
			return nil
		}
		a.mu.Unlock() // a later counting has failed
	}
}

// sync brings the counts up to date with the names.
// REQUIRES: mu is held.
func (a *accounting) sync(ctx context.Context) error {
	generation := a.objects.Quarantine.Generation()
	if a.graph == nil || a.graph.Lost() > 0 && a.generation != generation { // what was lost may be there again
		a.graph, a.counted, a.generation = edges.New(a.chunkSize, a.limit), map[merkle.Hash]*merkle.Root{}, generation
	}
	changes := a.changes.Load()
	named := a.hold()
	changed, err := a.follow(ctx, named)
	if err != nil {
		a.graph, a.counted = nil, nil
		a.live.Store(nil)
		return fmt.Errorf("count references: %w", err)
	}
	a.release(named)
	a.names = make(map[merkle.Hash]int, len(named))
	for h, n := range named {
		a.names[h] = n.names
	}
	if changed || a.unique == nil {
		a.unique, a.history = map[merkle.Hash]freedBytes{}, map[uuid.UUID]pastUse{}
	}
	a.live.Store(&liveBytes{Bytes: a.graph.Live(), treeLength: a.graph.Length(), exact: a.graph.Exact()})
	a.seen.Store(changes)
	return nil
}

// hold returns the roots that have a name, and has their nodes stay.
func (a *accounting) hold() map[merkle.Hash]namedRoot {
	named := map[merkle.Hash]namedRoot{}
	a.catalog.mu.Lock() // over both, so that no root loses its last name in between
	defer a.catalog.mu.Unlock()
	began := time.Now()
	defer func() { a.looking.Store(int64(time.Since(began))) }()
	a.catalog.eachRoot(func(h merkle.Hash, size int64) { named[h] = namedRoot{size, named[h].names + 1} })
	a.heldMu.Lock()
	defer a.heldMu.Unlock()
	for h, n := range named {
		a.held[h] = n.size
	}
	return named
}

// release lets the nodes go of all roots but those in named.
func (a *accounting) release(named map[merkle.Hash]namedRoot) {
	a.heldMu.Lock()
	defer a.heldMu.Unlock()
	maps.DeleteFunc(a.held, func(h merkle.Hash, _ int64) bool { _, ok := named[h]; return !ok })
}

// letGo returns when the objects of roots that had lost their names before the call need not stay
// any more, for the sake of the counts. It blocks, for as long as counting takes.
func (a *accounting) letGo(ctx context.Context) error {
	if !a.holdsUnnamed() {
		return nil
	}
	a.waiting.Add(1)
	defer a.waiting.Add(-1)
	return a.upToDate(ctx)
}

// holdsUnnamed reports whether a root that is held has no name.
func (a *accounting) holdsUnnamed() bool {
	a.catalog.mu.Lock()
	defer a.catalog.mu.Unlock()
	a.heldMu.Lock()
	unnamed := maps.Clone(a.held)
	a.heldMu.Unlock()
	a.catalog.eachRoot(func(h merkle.Hash, _ int64) { delete(unnamed, h) })
	return len(unnamed) > 0
}

// roots calls f for each root whose objects must stay although it may have no name any more. f must
// not block.
func (a *accounting) roots(f func(root merkle.Hash, size int64)) {
	a.heldMu.Lock()
	defer a.heldMu.Unlock()
	for h, size := range a.held {
		f(h, size)
	}
}

// follow adds the edges of new roots, and takes those of old ones away. New ones come first, so
// that what both have in common is not visited.
// REQUIRES: mu is held.
func (a *accounting) follow(ctx context.Context, named map[merkle.Hash]namedRoot) (changed bool, err error) {
	nodes := &pacedNodes{a: a, since: time.Now()}
	for h, n := range named {
		if a.counted[h] != nil {
			continue
		}
		root, err := a.objects.Root(ctx, h, n.size)
		if disk.Damaged(err) {
			empty := merkle.EmptyRoot(n.size, a.chunkSize) // what it refers to is unknown
			root, err = &empty, nil
		}
		if err == nil {
			err = a.graph.Add(ctx, nodes, root)
		}
		if err != nil {
			return changed, err
		}
		a.counted[h], changed = root, true
	}
	for h, root := range a.counted {
		if _, ok := named[h]; ok {
			continue
		}
		if err := a.graph.Remove(ctx, nodes, root); err != nil {
			return changed, err
		}
		delete(a.counted, h)
		changed = true
	}
	return changed, nil
}

// dead returns how many bytes of objects nothing refers to, of all that were stored; ok is false
// until they are counted. It is for a decision about when to collect, and neither blocks nor does
// I/O. Rounding up to blocks is left out, and so are what open views hold and what a settling under
// way is about to name.
func (s *Store) dead() (bytes int64, ok bool) {
	live := s.accounting.live.Load()
	if live == nil {
		return 0, false
	}
	data, tree := s.stored.chunks.Load()-live.Data, s.stored.nodes.Load()-live.treeLength
	return max(data, 0) + max(tree, 0), true
}

// pacedNodes reads nodes, and leaves half of the time to others unless a caller waits.
type pacedNodes struct {
	a     *accounting
	read  int
	since time.Time // the end of the last pause
}

// Node implements [edges.Nodes].
func (p *pacedNodes) Node(ctx context.Context, h merkle.Hash, level int) (*merkle.Node, error) {
	if p.read++; p.read%accountingTurn == 0 {
		if p.a.waiting.Load() == 0 {
			select {
			case <-ctx.Done():
			case <-time.After(time.Since(p.since)):
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p.since = time.Now()
	}
	return p.a.objects.PeekNode(ctx, h, level)
}
