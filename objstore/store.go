package objstore

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"varve/objstore/internal/journal"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/object"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// IndexDir is where the index is, relative to the store: files that can be rebuilt, mapped in
// part.
const IndexDir = "index"

const (
	lockFile         = "lock"
	defaultChunkSize = 16 << 10 // bytes
)

// Store is an open store. Safe for concurrent use.
//
// Its locks, what each protects and the order in which they are taken are listed in package
// internal/lockorder. A method that needs one held says so in a line of its own, "REQUIRES: v.mu is
// held."
type Store struct {
	dir      string
	fs       vfs.FS
	files    *vfs.Dir // the same, where it is the real one; nil: another
	lock     io.Closer
	opts     Options
	log      *slog.Logger
	sb       *superblock
	origin   journal.Origin
	inMemory bool // the files are on a file system in memory
	index    *storeIndex
	indexer  *indexer
	sketches segment.Sketches
	began    time.Time     // of the opening: what uptime counts from
	took     time.Duration // to open

	ctx       context.Context //nolint:containedctx // the life of the workers, ended by Close
	cancel    context.CancelFunc
	workersMu lockorder.Mutex[lockorder.Memory] // held to add a worker, and by Close when it forbids that
	workers   sync.WaitGroup

	housekeepers sync.WaitGroup // settler and indexer, which Quiesce ends and Resume starts again
	endHousework context.CancelFunc
	checking     lockorder.IOMutex[lockorder.Checking] // held by Check

	catalog *catalog

	segments   segment.Table
	footers    *segment.FooterCache
	objects    *object.Reader
	readers    *readers
	leaves     *leafCache
	maker      *segmentMaker
	sealer     *sealer
	recorder   *recorder
	stored     storedBytes
	appendPool segmentPool

	space        *spaceAccount
	ballast      *ballast
	usage        *usage
	accounting   *accounting
	settler      *settler
	layerSettler *layerSettler
	reclaimer    *reclaimer
	remover      *layerRemover
	replayer     *replayer
	evacuator    *evacuator
	collector    *collector
	extender     *extender
	upkeep       *upkeep

	damageBook

	failed atomic.Pointer[error] // why the store is read-only
}

// uptime is how long the store has been open. Durations are differences of it and never of wall
// clocks, which may be set at any time.
func (s *Store) uptime() time.Duration { return time.Since(s.began) }

// errLookOnly is why a store takes no writes that was opened so.
var errLookOnly = errors.New("it was opened to be looked at")

// background runs f on a goroutine that Close waits for. It returns false, and f does not run, if
// the store is being closed.
func (s *Store) background(f func()) bool {
	s.workersMu.Lock()
	defer s.workersMu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.workers.Go(f)
	return true
}

// Close commits the journals and closes; it settles nothing. No plan may be in use.
func (s *Store) Close() error {
	s.workersMu.Lock()
	s.cancel()
	s.workersMu.Unlock()
	s.waitHousework()
	s.workers.Wait()
	s.checking.Lock()
	defer s.checking.Unlock()
	s.saveHistory()
	s.catalog.logMu.Lock() // no record is being appended any more
	defer s.catalog.logMu.Unlock()
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	var left []string
	for _, v := range s.catalog.all() {
		journals, err := v.shut()
		if s.opts.LookOnly { // there is nothing to commit to
			continue
		}
		if keep(err); err == nil {
			left = append(left, journals...)
		}
	}
	if s.writeError() == nil {
		s.replayer.stampClosing(left)
	}
	s.reclaimer.abandon() // settled, and not freed: the next opening does it
	keep(s.closeFiles())
	return first
}

func (s *Store) closeFiles() error {
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if s.indexer != nil {
		keep(s.indexer.rebuild.close())
	}
	if s.index != nil && s.opts.Index == nil {
		keep(s.index.close())
	}
	for _, g := range s.segments.All() {
		keep(g.Close())
	}
	keep(s.catalog.close())
	if s.lock != nil {
		keep(s.lock.Close())
	}
	if s.files != nil && s.opts.Lock == nil {
		keep(s.files.Close())
	}
	return first
}
