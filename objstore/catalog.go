package objstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// catalog has the names of a store: the volumes, their snapshots, the roots of both, and the log
// that makes them durable (refs). Only the catalog decides about names; the data behind them
// belongs to the engine.
//
// It has two locks, as the manifest of an LSM tree does:
//
//	logMu   serialises decisions. It is held from the decision about records until they have taken
//	        effect, over the append to the log and its syncs.
//	mu      guards the state in memory. It is held for the decision, and again when the records take
//	        effect; never over I/O, and never while waiting for a lock that is held over I/O.
//
// Hence refs change under both locks and may be read under either. Reads and writes of volumes
// never take logMu, so no request waits for a sync of the log.
//
// TestNoStateLockIsHeldOverFileOperations proves it, with a file layer that fails an operation
// while mu is held.
type catalog struct {
	gate    gate
	sb      *superblock
	changed func() // called with mu held when records have taken effect; must not block; may be nil

	// makeRoom is called with logMu held when the disk has no room for records that free some, and
	// reports whether trying again is worthwhile. It may be nil.
	makeRoom func() bool

	logMu lockorder.IOMutex[lockorder.RefsLog]
	log   *refs.Log
	doubt atomic.Bool // the log may have a record whose append returned an error; changes under logMu

	mu          lockorder.Mutex[lockorder.Catalog]
	refs        *refs.State // changes under logMu and mu
	volumes     map[uuid.UUID]*volume
	views       map[*View]struct{}
	nextSegment uint64 // ID of the next segment

	past *timeline
}

// gate tells whether the store accepts writes, and makes it read-only.
type gate interface {
	// writeError returns why the store takes no writes, or nil.
	writeError() error
	// fail makes the store read-only, and returns err as the reason.
	fail(err error) error
	// spaceError turns an errno of a full disk into ErrNoSpace, and makes the space account look at
	// the free space again.
	spaceError(err error) error
}

func newCatalog() *catalog {
	return &catalog{nextSegment: 1, volumes: map[uuid.UUID]*volume{}, views: map[*View]struct{}{}}
}

// open reads the log of a store. It returns the damage that it has repaired.
// REQUIRES: the catalog is not shared yet.
func (c *catalog) open(ctx context.Context, fs vfs.FS, sb *superblock, logger *slog.Logger) ([]*CorruptError, error) {
	var err error
	c.sb = sb
	if c.log, c.refs, err = refs.Open(ctx, fs, sb.ID, sb.ChunkSize, logger); err != nil {
		return nil, err
	}
	c.nextSegment = c.refs.Segments
	return c.log.Damage(), c.log.Tidy(c.refs)
}

// update makes records durable and lets them take effect, all or none. decide returns them and runs
// with mu held: what it has seen in refs does not change until they take effect. If it returns no
// records, update does nothing. took, which may be nil, runs with mu held when the records have
// taken effect. Neither may block. If ctx ends before decide is called, nothing changes; afterwards
// the records take effect or fail, regardless of ctx. The caller holds neither lock.
func (c *catalog) update(ctx context.Context, decide func() ([]refs.Record, error), took func()) error {
	if err := c.logMu.LockContext(ctx); err != nil {
		return err
	}
	defer c.logMu.Unlock()
	if err := c.takeBackLocked(); err != nil {
		return err
	}
	c.mu.Lock()
	recs, err := decide()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if len(recs) == 0 { // if the log has failed, it may have a record to the contrary
		return c.gate.writeError()
	}
	err = c.record(ctx, recs)
	if errors.Is(err, ErrNoSpace) && refs.Freeing(recs) && c.makeRoom != nil && c.makeRoom() {
		err = c.record(ctx, recs)
	}
	if err != nil {
		return err
	}
	if err := c.apply(recs, took); err != nil {
		return c.gate.fail(err)
	}
	if err := c.log.Compact(c.refs); err != nil { // it is unknown which file counts; the records are in both
		_ = c.gate.fail(fmt.Errorf("compact %s: %w", refs.LogFile, err))
	}
	return nil
}

// need adds features to the superblock, durably, before the store uses them. update calls it for
// the features of its records, with logMu held; code that writes such bytes to other files calls it
// first. If the superblock has the features, need only reads memory.
func (c *catalog) need(ctx context.Context, features refs.Features) error {
	return c.sb.need(ctx, features)
}

// append is update for records that depend on nothing.
func (c *catalog) append(ctx context.Context, recs ...refs.Record) error {
	return c.update(ctx, func() ([]refs.Record, error) { return recs, nil }, nil)
}

// record makes records durable, and before them that the store uses the features that they need.
// REQUIRES: logMu is held.
func (c *catalog) record(ctx context.Context, recs []refs.Record) error {
	if err := c.need(ctx, refs.Needed(recs)); err != nil {
		return err
	}
	return c.write(recs)
}

// write appends records to the log, durably.
// REQUIRES: logMu is held.
func (c *catalog) write(recs []refs.Record) error {
	if err := c.gate.writeError(); err != nil {
		return err
	}
	err := c.log.Append(recs)
	c.doubt.Store(c.log.InDoubt())
	return c.logError(err)
}

// takeBack removes a record whose append returned an error, and which could not be removed then:
// after a crash it would take effect. Until it is removed, nothing else may be decided, and no
// volume opened, as the record may delete that volume.
func (c *catalog) takeBack() error {
	if !c.inDoubt() {
		return nil
	}
	c.logMu.Lock()
	defer c.logMu.Unlock()
	if err := c.takeBackLocked(); err != nil && c.gate.writeError() == nil {
		return err
	}
	return nil
}

// inDoubt reports whether there is a record to take back. It is false in a read-only store, which
// appends no further records.
func (c *catalog) inDoubt() bool { return c.doubt.Load() && c.gate.writeError() == nil }

// takeBackLocked is takeBack.
// REQUIRES: logMu is held.
func (c *catalog) takeBackLocked() error {
	if !c.doubt.Load() {
		return nil
	}
	err := c.log.TakeBack()
	c.doubt.Store(c.log.InDoubt())
	return c.logError(err)
}

// logError returns the error of an append. If the content of the log is unknown after it, the store
// becomes read-only.
func (c *catalog) logError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoSpace), disk.Transient(err):
		return c.gate.spaceError(err)
	}
	return c.gate.fail(fmt.Errorf("append to %s: %w", refs.LogFile, err))
}

// readLog runs f, which may read the log's files, with no append under way.
func (c *catalog) readLog(ctx context.Context, f func(*refs.Log)) error {
	if err := c.logMu.LockContext(ctx); err != nil {
		return err
	}
	defer c.logMu.Unlock()
	f(c.log)
	return nil
}

// apply lets durable records take effect.
// REQUIRES: logMu is held.
func (c *catalog) apply(recs []refs.Record, took func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range recs {
		if err := c.refs.Apply(&recs[i]); err != nil {
			return fmt.Errorf("apply %s record: %w", recs[i].Op, err)
		}
		c.noteLocked(&recs[i])
	}
	if took != nil {
		took()
	}
	if c.changed != nil {
		c.changed()
	}
	return nil
}

// noteLocked updates a volume's history after a record has taken effect.
// REQUIRES: mu is held.
func (c *catalog) noteLocked(rec *refs.Record) {
	switch rec.Op {
	case refs.OpHead, refs.OpResize:
		c.past.note(c.refs.ByID[rec.ID])
	case refs.OpPolicy:
		c.past.begin(c.refs.ByID[rec.ID])
	case refs.OpVolumeDelete:
		c.past.forget(rec.ID)
	default:
	}
}

// images returns the volumes and open views, which have leaves in memory.
func (c *catalog) images() []sweeper {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]sweeper, 0, len(c.volumes)+len(c.views))
	for _, v := range c.volumes {
		out = append(out, v)
	}
	for w := range c.views {
		out = append(out, w)
	}
	return out
}

// close closes the log.
// REQUIRES: logMu is held, or the opening of the store has failed.
func (c *catalog) close() error {
	if c.log == nil {
		return nil
	}
	return c.log.Close()
}
