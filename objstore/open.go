package objstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// Open opens a store and replays its journals. One process can have it open.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	start := time.Now()
	o.EnsureDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	s := &Store{
		dir: dir, fs: o.FS, opts: o, log: o.Logger, began: start, catalog: newCatalog(),
		footers: segment.NewFooterCache(o.FooterCache), extender: newExtender(), damageBook: damageBook{log: o.Logger},
	}
	s.readers = newReaders(s.catalog)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.open(ctx); err != nil {
		s.cancel()
		s.workers.Wait()
		_ = s.closeFiles() // the first error is the one to report
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s.took = time.Since(start)
	if o.LookOnly {
		s.failed.Store(&errLookOnly)
		return s, nil
	}
	s.ballast.keep() // not earlier: what opening writes comes first
	s.workers.Go(func() { s.space.run(s.ctx) })
	s.workers.Go(func() { s.extender.run(s.ctx) })
	s.space.askForLook() // the first write finds a budget
	s.startHousework()
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if s.fs == nil {
		if s.files = vfs.OS(s.dir); s.opts.Lock != nil {
			s.files = s.opts.Lock.Dir()
		}
		if err := isStore(s.files); err != nil {
			return err
		}
		s.fs = s.files
	}
	if s.fs = vfs.Patient(s.fs); s.opts.LookOnly {
		s.fs = vfs.Patient(vfs.Overlay(s.files))
	}
	s.inMemory = s.fs.InMemory()
	if s.opts.Lock == nil {
		if s.lock, err = lock(s.fs); err != nil {
			return err
		}
	}
	var repaired []*CorruptError
	if s.sb, repaired, err = openSuperblock(s.fs, s, s.opts.LookOnly); err != nil {
		return err
	}
	for _, d := range repaired {
		s.repaired(d)
	}
	if s.origin, err = s.findOrigin(); err != nil {
		return err
	}
	if err := s.openSpace(); err != nil {
		return err
	}
	if err := s.openCatalog(ctx); err != nil {
		return err
	}
	s.space.setLimits(s.opts.Reserve, s.catalog.refs.MaxSize)
	if err := s.openIndex(); err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	s.objects = s.newObjects()
	s.leaves = &leafCache{
		objects: s.objects, segments: &s.segments, lookups: &s.readers.lookups, images: s.catalog.images, limit: s.opts.LeafCache / leafBytes,
		log: s.log, life: s.ctx,
	}
	s.maker = &segmentMaker{
		fs: s.fs, size: s.opts.SegmentSize, store: s.sb.ID, segments: &s.segments, index: s.index, gate: s,
		newID: s.catalog.newSegmentID, log: s.log, ctx: s.ctx, run: s.background, spare: make(chan emptySegment),
	}
	s.recorder = &recorder{
		fs: s.fs, store: s.sb.ID, index: s.index, objects: s.objects, count: s.stored.count, gate: s, log: s.log,
	}
	s.sealer = &sealer{
		fs: s.fs, disk: s.files, store: s.sb.ID, segments: &s.segments, index: s.index, gate: s, refused: &s.hold, log: s.log,
	}
	s.remover = &layerRemover{fs: s.fs, segments: &s.segments, leaves: s.leaves, sealer: s.sealer, closed: s.ctx.Done()}
	s.evacuator = s.newEvacuator()
	s.replayer = s.newReplayer()
	s.indexer = &indexer{
		index: s.index, segments: &s.segments, pins: &s.readers.lookups, sketches: &s.sketches, objects: s.objects, requests: s.catalog.requests, log: s.log,
	}
	s.openAccounting()
	s.layerSettler = s.newLayerSettler()
	s.openReindexer()
	return s.recover(ctx)
}

func (s *Store) newLayerSettler() *layerSettler {
	return &layerSettler{
		segments: &s.segments, index: s.index, objects: s.objects, cache: s.leaves, lookups: &s.readers.lookups,
		heads: s.catalog, barrier: s.collector, gate: s, space: s.space, recorder: s.recorder, appenders: newAppenders(s.maker.take),
		giveWay: func(ctx context.Context, v *volume, n int) error { return s.settler.pace(ctx, v, n) },
		punch:   func(g *segment.File, from, to int64) { _ = s.sealer.punch(g, from, to, nil) },
		dead:    func(v *volume, l *layer) reclaimable { return &deadLayer{remover: s.remover, v: v, l: l} }, reclaimer: s.reclaimer, log: s.log,
	}
}

func (s *Store) newEvacuator() *evacuator {
	return &evacuator{
		fs: s.fs, segments: &s.segments, objects: s.objects, index: s.index, sketches: &s.sketches, readers: s.readers, names: s.catalog,
		sealer: s.sealer, recorder: s.recorder, stored: &s.stored, usage: s.usage, space: s.space, gate: s, log: s.log,
		appenders: newAppenders(s.maker.take), buf: disk.AlignedBuffer(disk.MaxChunkSize),
		pace: func(ctx context.Context, _ int64) error { return ctx.Err() },
	}
}

func (s *Store) newReplayer() *replayer {
	return &replayer{
		fs: s.fs, store: s.sb.ID, chunkSize: s.sb.ChunkSize, origin: s.origin, trustCache: s.opts.TrustCache, contested: s.opts.Contested,
		segments: &s.segments, snapshotsOf: s.catalog.snapshotsOf, space: s.space, book: &s.damageBook, log: s.log,
	}
}

// isStore looks for a superblock.
func isStore(files *vfs.Dir) error {
	_, err := files.Used(refs.SuperblockFile)
	if err == nil {
		return nil
	}
	if _, cerr := files.Used(refs.SuperblockCopy); cerr == nil {
		return nil
	}
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: no superblock there; make one with init", ErrNotStore)
	}
	return err
}

func (s *Store) openSpace() error {
	total, _, err := s.fs.Space()
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	s.usage = &usage{fs: s.fs, segments: &s.segments, indexBytes: func() int64 { return s.index.bytes() }}
	s.space = newSpaceAccount(total, spaceDeps{
		free: func() (int64, error) {
			kept := s.ballast.held.Load()
			_, free, err := s.fs.Space()
			return free + kept, err
		},
		used: func() (int64, error) {
			used, err := s.usage.total()
			return used - s.ballast.held.Load(), err
		},
		kept:         func() int64 { return s.ballast.held.Load() },
		returning:    func() bool { return s.reclaimer.returning() },
		wantSettling: func() { s.settler.ask() },
		stopped:      func() bool { return s.failed.Load() != nil },
		log:          s.log,
	})
	s.space.setLimits(s.opts.Reserve, 0) // a maximum is known when the refs are read
	s.ballast = newBallast(s.fs, s.opts.SegmentSize, s.space.reserve.Load(), func() bool { return s.collector.frees() }, s.log)
	s.reclaimer = newReclaimer(s.log, s.uptime, s.space.returned)
	s.settler = newSettler(s.settlerDeps())
	s.collector = newCollector(s)
	return nil
}

// settlerDeps returns what the settler needs. What there is not yet is there before the settler
// runs.
func (s *Store) settlerDeps() settlerDeps {
	return settlerDeps{
		volumes: s.catalog.settleable, gate: s, space: s.space, requests: s.catalog.requests,
		filling: func() bool { return s.indexer.filling.Load() },
		repairs: func() int64 { return s.objects.Quarantine.Generation() },
		seal:    func() error { return s.sealer.sealFilled(&s.layerSettler.appenders) },
		housekeep: func() {
			_ = s.catalog.takeBack() // an error is tried again at the next tick
			s.ballast.keep()
			if s.catalog.past.saveDue() {
				s.saveHistory()
			}
		},
		makeRoom: s.ballast.dropFor,
		uptime:   s.uptime, closed: s.ctx.Done(), delay: s.opts.SettleDelay, tailSoft: s.opts.TailSoft, log: s.log,
	}
}

func (s *Store) openAccounting() {
	s.accounting = &accounting{
		catalog: s.catalog, objects: s.objects, chunkSize: s.sb.ChunkSize, limit: s.opts.CountMemory, log: s.log,
		ready: func() bool {
			opening := s.uptime() < min(openingGrace, s.opts.SettleDelay) // devices of a killed daemon come first
			return !opening && !s.indexer.filling.Load() || s.accounting.waiting.Load() > 0
		},
		ctx: s.ctx, background: s.background, asked: make(chan struct{}, 1), held: map[merkle.Hash]int64{},
	}
	s.catalog.changed, s.catalog.makeRoom = s.accounting.ask, s.ballast.drop
	s.accounting.ask()
}

// openCatalog reads what the store knows by name.
func (s *Store) openCatalog(ctx context.Context) error {
	c := s.catalog
	c.gate = s
	repaired, err := c.open(ctx, s.fs, s.sb, s.log)
	for _, d := range repaired {
		s.repaired(d)
	}
	if err != nil {
		return err
	}
	var lost []*CorruptError
	if c.past, lost, err = openTimeline(s.fs, c, s.origin.Boot, &s.opts); err != nil {
		return fmt.Errorf("open the history of volumes: %w", err)
	}
	for _, d := range lost {
		s.lost(d)
	}
	return nil
}

func (s *Store) openIndex() (err error) {
	if s.opts.Index != nil {
		s.index = newStoreIndex(s.opts.Index)
		return nil
	}
	if s.opts.LookOnly { // nothing fills it: that would take longer than to look a few objects up without
		s.index = newStoreIndex(index.NewMem())
		return nil
	}
	dir, o, err := s.indexDir(IndexDir)
	if err != nil {
		return err
	}
	ix, err := index.Open(dir, o)
	instead := []error{index.ErrNoSpace, index.ErrLocked, index.ErrUnusable}
	if errors.Is(disk.SpaceError(err), ErrNoSpace) || slices.ContainsFunc(instead, func(e error) bool { return errors.Is(err, e) }) {
		// Other files took the room that the index needs, or a daemon that hands over had none to
		// close it, or its disk has lost a part of it. An index can be rebuilt at any time, so this
		// one is temporary.
		s.log.Warn("the index can't be opened; one is kept in memory until the store opens again. Above its bound, look-ups are slow and "+
			"duplicates are not found", "entries", index.MemEntries, "error", err)
		ix, err = index.NewBoundedMem(index.MemEntries), nil
	}
	if err != nil {
		return err
	}
	s.index = newStoreIndex(ix)
	return nil
}

// newObjects makes what finds and reads the store's objects; it knows of no damage.
func (s *Store) newObjects() *object.Reader {
	return object.NewReader(object.Options{
		Segments: &s.segments, Footers: s.footers, Sketches: &s.sketches, Index: objectIndex{s.index, s.found}, Pins: &s.readers.lookups, Logger: s.log, ChunkSize: s.sb.ChunkSize,
	})
}

// found enters objects into the index that it lacked.
func (s *Store) found(objs []object.Found) {
	if !s.indexer.filling.Load() { // else the indexer does it, and readers do not wait for what it writes
		_ = s.indexer.enterFound(objs) // a hint that the next look-up can do without
	}
}

// findOrigin returns which kernel's page cache this process writes through.
func (s *Store) findOrigin() (journal.Origin, error) {
	o := journal.Origin{Boot: s.opts.Boot, Mount: s.opts.Mount}
	if o.Boot == "" {
		var err error
		if o.Boot, err = vfs.BootID(); err != nil {
			return o, err
		}
	}
	if o.Mount == "" && s.opts.FS == nil {
		var err error
		if o.Mount, err = s.files.MountID(); err != nil {
			return o, err
		}
	}
	return o, nil
}
