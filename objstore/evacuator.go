package objstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// evacuator copies what lives out of segments in which punching is not enough, and unlinks these:
// see victims. Trees contain no locations, so nothing but the index is told where a copy lies.
//
//	1  copy      objects that are alive, each compared with its hash; sync; object logs, durable; index
//	2  vacate    nobody finds anything in the segment any more, or something in it came to be used
//	             meanwhile, and is copied too
//	3  unnamed   the segment leaves the table; wait for readers. Leaves in memory may lead there still: a
//	             plan that finds no segment has its leaf loaded again
//	4  retired   refs say that nothing is in the segment, durably, and how long the object logs are that
//	             have its objects now
//	5  unlink    durably
//
// A crash before 4 leaves the segment as it was, beside copies that the index leads to; one after 4
// leaves a file that opening removes. What was copied before an error is not copied again: a good copy
// that the index leads to is as good as one that is made.
//
// An evacuator is used by one collection at a time, which holds collector.running; it has no lock.
type evacuator struct {
	fs       vfs.FS
	segments *segment.Table
	objects  *object.Reader
	index    *storeIndex
	sketches *segment.Sketches
	readers  interface {
		wait(ctx context.Context) error // for the readers of now
	}
	names    retirements
	sealer   *sealer
	recorder *recorder
	stored   *storedBytes
	usage    *usage
	space    *spaceAccount
	gate     gate
	log      *slog.Logger

	appenders appenders
	vacant    []*segment.File                              // after step 2, with files
	buf       []byte                                       // an object
	pace      func(ctx context.Context, bytes int64) error // keeps to the collector's rate
}

// retirements is where it is recorded which segments have nothing in them any more: the catalog, as
// an evacuator sees it.
type retirements interface {
	// retire makes durable that nothing is in the segments, and how long the object logs of the others
	// are.
	retire(ctx context.Context, ids []uint32, segments *segment.Table) error
	// unlinked forgets retired segments whose files are gone for good.
	unlinked(ids []uint32)
}

const (
	// evacuationBatch is how many bytes are copied between two syncs.
	evacuationBatch = 8 << 20
	// evacuationGroup is how many bytes are copied at most before the files that they were copied out
	// of are unlinked.
	evacuationGroup = 64 << 20
	// evacuationFiles is how many files are unlinked together at most.
	evacuationFiles = 256
)

// errStays is why a segment is not evacuated: what is in it can't be told, or read.
var errStays = errors.New("the segment stays")

// evacuated is what became of an evacuation.
type evacuated struct {
	segments int   // unlinked
	dead     int64 // objects that were not copied
	copied   int64 // bytes
	freed    int64 // bytes that the unlinked files occupied
}

// evacuate copies what lives out of segments, and unlinks these. live says of a hash whether anything
// refers to it: it must say so from before a settling looks the hash up. Without room for a copy the
// error is ErrNoSpace, and the store is as it was, or with some of the segments gone.
func (e *evacuator) evacuate(ctx context.Context, segs []*segment.File, live func(*merkle.Hash) bool) (done evacuated, err error) {
	group := int64(0)
	for _, g := range segs {
		n, dead, err := e.empty(ctx, g, live)
		done.copied += n
		done.dead += dead
		if errors.Is(err, errStays) {
			e.log.Warn("a segment is not freed", "file", segment.Name(g.ID), "error", err)
			continue
		}
		if err != nil {
			return done, err
		}
		e.vacant = append(e.vacant, g)
		if group += n; group < evacuationGroup && len(e.vacant) < evacuationFiles {
			continue
		}
		group = 0
		if err := e.unlink(ctx, &done); err != nil {
			return done, err
		}
	}
	if err := e.unlink(ctx, &done); err != nil {
		return done, err
	}
	return done, e.sealer.sealFilled(&e.appenders)
}

// empty does steps 1 and 2 for a sealed segment, and returns how many bytes were copied, and how many
// objects were dead.
func (e *evacuator) empty(ctx context.Context, g *segment.File, live func(*merkle.Hash) bool) (copied, dead int64, err error) {
	objs, err := g.Objects()
	if disk.Damaged(err) {
		e.objects.NoteDamage(g, err)
		return 0, 0, fmt.Errorf("%w: %w", errStays, err)
	}
	if err != nil {
		return 0, 0, err
	}
	moved := map[uint32]bool{}
	todo := slices.DeleteFunc(slices.Clone(objs), func(o segment.Object) bool { return !live(&o.Hash) })
	for {
		for len(todo) > 0 {
			batch := batchOf(todo)
			todo = todo[len(batch):]
			n, err := e.copy(ctx, g, batch)
			if copied += n; err != nil {
				return copied, 0, err
			}
			for i := range batch {
				moved[batch[i].Block] = true
			}
		}
		e.objects.Move()
		chunks, others := g.Stored()
		left, ok := g.Vacate(objs, func(block uint32) bool { return moved[block] }, live)
		if !ok {
			return copied, 0, fmt.Errorf("%w: it is not sealed, or its list is damaged", errStays)
		}
		if len(left) == 0 {
			e.stored.add(-chunks, -others)
			failpoint.Here(failpoint.EvacuateVacated)
			e.recorder.forget(g, objs)
			return copied, int64(len(objs) - len(moved)), nil
		}
		todo = left
	}
}

// batchOf returns the first objects of a list, of evacuationBatch bytes or one.
func batchOf(objs []segment.Object) []segment.Object {
	bytes := int64(0)
	for i := range objs {
		if bytes += int64(objs[i].Length); i > 0 && bytes > evacuationBatch {
			return objs[:i]
		}
	}
	return objs
}

// copy does step 1 for some objects of a segment. The error is errStays if one of them is damaged; the
// others are copied nevertheless, and will be found there.
func (e *evacuator) copy(ctx context.Context, g *segment.File, objs []segment.Object) (copied int64, err error) {
	if err := e.mayTake(objs); err != nil {
		return 0, err
	}
	added := map[*segment.File][]segment.Object{}
	var stays error
	for i := range objs {
		to, o, err := e.copyObject(ctx, g, &objs[i])
		if errors.Is(err, errStays) {
			stays = err
			continue
		}
		if err != nil {
			e.undo(added)
			return 0, err
		}
		if to != nil {
			added[to] = append(added[to], o)
			copied += int64(o.Length)
		}
	}
	failpoint.Here(failpoint.EvacuateCopied)
	err = disk.Parallel(slices.Collect(maps.Keys(added)), func(to *segment.File) error { return e.record(to, added[to]) })
	if err != nil {
		e.undo(added)
		return 0, err
	}
	return copied, stays
}

// undo gives back what was copied and not recorded.
func (e *evacuator) undo(added map[*segment.File][]segment.Object) {
	if e.gate.writeError() != nil {
		return // it is not known what was recorded
	}
	for g, objs := range added {
		for i := range objs {
			if _, kept, _, _ := g.Listed(objs[i].Block); !kept {
				from := int64(objs[i].Block) * disk.BlockSize
				_ = e.sealer.punch(g, from, from+disk.RoundUp(int64(objs[i].Length), disk.BlockSize), nil)
			}
		}
	}
}

// mayTake returns ErrNoSpace if copies of objects would take more than half of the reserve.
func (e *evacuator) mayTake(objs []segment.Object) error {
	need := int64(2 * disk.BlockSize) // the entries
	for i := range objs {
		need += disk.RoundUp(int64(objs[i].Length), disk.BlockSize)
	}
	room, err := e.space.room()
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	if half := e.space.reserve.Load() / 2; room+half < need {
		return fmt.Errorf("%w: %d bytes to copy out of segments, and %d for that", ErrNoSpace, need, max(room+half, 0))
	}
	return nil
}

// copyObject copies an object to a segment of the evacuator's own, unless the store has another good
// copy, to which the index leads: then to is nil.
func (e *evacuator) copyObject(ctx context.Context, g *segment.File, o *segment.Object) (to *segment.File, at segment.Object, err error) {
	if err := e.pace(ctx, 2*int64(o.Length)); err != nil {
		return nil, at, err
	}
	if loc, ok := e.objects.Lookup(&o.Hash, o.Kind); ok && loc != segment.At(g.ID, o.Block) && e.objects.Intact(loc, &o.Hash, o.Kind) {
		return nil, at, nil
	}
	b := e.buf[:o.Length]
	loc := segment.At(g.ID, o.Block)
	err = disk.ReadAligned(g.Data, b, loc.Offset())
	if disk.Transient(err) {
		return nil, at, fmt.Errorf("read %s: %w", segment.Name(g.ID), err)
	}
	if err == nil && merkle.Sum(o.Kind, b) != o.Hash {
		err = errOtherBytes
	}
	if err != nil {
		err = &CorruptError{File: segment.Name(g.ID), Offset: loc.Offset(), Object: fmt.Sprintf("%v %v", o.Kind, o.Hash), Err: err}
		e.objects.Damaged(loc, err)
		return nil, at, fmt.Errorf("%w: %w", errStays, err)
	}
	to, off, err := e.appenders.of(o.Kind).slot(ctx, int64(o.Length))
	if err != nil {
		return nil, at, err
	}
	if err := disk.WriteAligned(to.Data, b, off); err != nil {
		return nil, at, e.gate.spaceError(fmt.Errorf("write %v: %w", o.Kind, err))
	}
	at = *o
	at.Block = uint32(off / disk.BlockSize)
	return to, at, nil
}

// record makes copies durable, and then known.
func (e *evacuator) record(g *segment.File, objs []segment.Object) error {
	if err := g.Sync(); err != nil {
		return e.gate.fail(fmt.Errorf("sync %s: %w", segment.Name(g.ID), err))
	}
	if err := e.recorder.list(g, objs); err != nil {
		return err
	}
	failpoint.Here(failpoint.EvacuateRecorded)
	e.recorder.enter(g, objs)
	failpoint.Here(failpoint.EvacuateIndexed)
	return nil
}

// unlink does steps 3 to 5 for all vacant segments.
func (e *evacuator) unlink(ctx context.Context, done *evacuated) error {
	if len(e.vacant) == 0 {
		return nil
	}
	ids := make([]uint32, len(e.vacant))
	for i, g := range e.vacant {
		ids[i] = g.ID
		e.segments.Remove(g.ID)
	}
	err := e.readers.wait(ctx)
	if err == nil {
		err = e.names.retire(ctx, ids, e.segments)
	}
	if err != nil {
		for _, g := range e.vacant { // nothing is found there, and Close closes the files
			e.segments.Add(g)
		}
		return err
	}
	failpoint.Here(failpoint.RetireRecorded)
	gone := ids[:0]
	for _, g := range e.vacant {
		e.index.forget(g.ID)
		e.sketches.Drop(g.ID)
		used, _ := e.usage.ofSegment(g) // for the report
		if err := errors.Join(g.Close(), e.fs.Remove(segment.Name(g.ID))); err != nil {
			e.log.Warn("a retired segment stays until the store opens again", "file", segment.Name(g.ID), "error", err)
			continue
		}
		done.segments++
		done.freed += used
		gone = append(gone, g.ID)
		failpoint.Here(failpoint.EvacuateUnlinked)
	}
	e.vacant = nil
	e.space.returned()
	if err := e.fs.SyncDir(segment.Dir); err != nil {
		e.log.Warn("retired segments may come back after a power cut, until the store opens", "error", err)
		return nil
	}
	e.names.unlinked(gone)
	return nil
}

// retire implements [retirements].
func (c *catalog) retire(ctx context.Context, ids []uint32, segments *segment.Table) error {
	logs := objectLogLengths(segments)
	return c.update(ctx, func() ([]refs.Record, error) {
		c.trimObjectLogs(logs, segments)
		return []refs.Record{{Op: refs.OpRetired, Retired: slices.Clone(ids), ObjectLogs: logs}}, nil
	}, nil)
}

// unlinked implements [retirements].
func (c *catalog) unlinked(ids []uint32) {
	c.logMu.Lock()
	defer c.logMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refs.Unlinked(ids)
}
