package objstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// segmentOpener opens the segments of earlier processes, compares them with refs, and ends those
// that are not appended to any more. Only the opening of a store uses it.
//
// Damage concerns one segment: the store opens with the others. Foreign files are left alone.
type segmentOpener struct {
	fs       vfs.FS
	store    uuid.UUID
	names    *catalog
	segments *segment.Table
	stored   *storedBytes
	sealer   *sealer
	book     *damageBook
	log      *slog.Logger
}

// open opens every segment file.
func (o *segmentOpener) open(ctx context.Context) error {
	names, err := o.fs.List(segment.Dir)
	if err != nil {
		return err
	}
	logs := map[uint32]bool{}
	var files []*segmentFile
	for _, n := range names {
		switch id, isLog, ok := segment.ParseName(n); {
		case segment.IsDraft(n):
			if err := disk.RemoveLeftover(o.fs, o.log, segment.Dir+"/"+n); err != nil {
				return err
			}
		case !ok:
			o.book.stray(segment.Dir + "/" + n)
		case o.names.refs.Retired[id]:
			if err := disk.RemoveLeftover(o.fs, o.log, segment.Dir+"/"+n); err != nil {
				return err
			}
		case isLog:
			logs[id] = true
		default:
			files = append(files, &segmentFile{id: id})
		}
	}
	err = disk.ParallelContext(ctx, files, func(f *segmentFile) error { // each has its own error
		f.seg, f.err = segment.Open(ctx, o.fs, f.id, o.store, logs[f.id])
		if disk.Unreadable(f.err) { // a second read may succeed
			f.seg, f.err = segment.Open(ctx, o.fs, f.id, o.store, logs[f.id])
		}
		return nil
	})
	if err != nil {
		closeSegments(files)
		return err
	}
	if err := o.take(files, logs); err != nil {
		return err
	}
	// The process that created an object log may have been killed before it could sync its name.
	if err := o.fs.SyncDir(segment.Dir); err != nil {
		return err
	}
	o.names.refs.Unlinked(slices.Collect(maps.Keys(o.names.refs.Retired)))
	return nil
}

// segmentFile is a segment that was opened, or the reason why it was not.
type segmentFile struct {
	id  uint32
	seg *segment.File
	err error
}

// closeSegments closes those that were opened.
func closeSegments(files []*segmentFile) {
	for _, f := range files {
		if f.seg != nil {
			_ = f.seg.Close() // nothing was written
		}
	}
}

// take adds the segments that were opened to the table. logs are the IDs of
// segments that have an object log.
func (o *segmentOpener) take(files []*segmentFile, logs map[uint32]bool) error {
	unreadable := map[uint32]bool{}
	var first error
	for _, f := range files {
		id, g, err := f.id, f.seg, f.err
		if disk.Unreadable(err) {
			o.book.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: err})
			unreadable[id] = true
			delete(logs, id)
			continue
		}
		if errors.Is(err, segment.ErrUnfinished) {
			// Power was cut before the segment's header was durable: nothing refers to it.
			o.log.Info("an unfinished segment is removed", "segment", id)
			err = o.fs.Remove(segment.Name(id))
			if first == nil {
				first = err
			}
			continue
		}
		if err != nil {
			if first == nil {
				first = err
			}
			continue // the other segments are closed with the store
		}
		o.validateObjectLog(g)
		if d := g.Repaired(); d != nil {
			o.book.repaired(d)
		}
		if err := g.Damage(); err != nil {
			o.book.lost(err)
		}
		delete(logs, id)
		o.segments.Add(g)
		chunks, others := g.Stored()
		o.stored.add(chunks, others)
		o.names.usedSegment(id)
	}
	if first != nil {
		return first
	}
	for id := range o.names.refs.ObjectLogs {
		if o.segments.Get(id) == nil && !logs[id] && !unreadable[id] {
			o.book.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: errors.New("it is missing, and refs know of objects in it")})
		}
	}
	for id := range logs {
		o.book.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: errors.New("its object log is there, the segment is not")})
	}
	return nil
}

// validateObjectLog compares the length of an object log with what refs know of it.
func (o *segmentOpener) validateObjectLog(g *segment.File) {
	want := o.names.refs.ObjectLogs[g.ID]
	if want == 0 || g.Damaged() {
		return
	}
	g.SetLogged(want) // the file of refs says so until it is compacted
	if g.Sealed() {
		delete(o.names.refs.ObjectLogs, g.ID)
		return
	}
	bad := &CorruptError{File: segment.ObjectLogName(g.ID), Object: "log"}
	switch n := g.ObjectLogSize(); {
	case n == 0:
		bad.Err = errors.New("it is missing, and refs know of objects in it")
	case n < want:
		bad.Offset, bad.Err = n, fmt.Errorf("it ends there, and had %d bytes", want)
	default:
		return
	}
	g.SetDamage(bad)
}

// sweep ends the segments that an earlier process left open: they are not appended to any more.
func (o *segmentOpener) sweep(ctx context.Context) error {
	for _, g := range o.segments.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if g.Outlived() {
			if err := o.dropOutlived(g); err != nil {
				return err
			}
		}
	}
	left := slices.DeleteFunc(o.segments.All(), func(g *segment.File) bool {
		return g.Sealed() || g.Unsettled.Load() > 0 || o.sealer.holds(g)
	})
	if err := disk.ParallelContext(ctx, left, o.sweepSegment); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverSwept)
	return nil
}

// dropOutlived removes the object log of a segment whose footer names all that is in it.
func (o *segmentOpener) dropOutlived(g *segment.File) error {
	// A process that was killed may have written the footer, and not synced it; or its sync has
	// failed.
	if err := g.Reseal(o.store); err != nil {
		o.log.Warn("an object log that is not needed was not removed", "file", segment.ObjectLogName(g.ID), "error", err)
		return nil
	}
	if err := disk.RemoveLeftover(o.fs, o.log, segment.ObjectLogName(g.ID)); err != nil {
		return err
	}
	return o.fs.SyncDir(segment.Dir)
}

// sweepSegment seals a segment, or removes it if it holds nothing.
func (o *segmentOpener) sweepSegment(g *segment.File) error {
	if len(g.OpenObjects()) > 0 {
		return o.sealer.seal(g)
	}
	// Before the segment is removed: an object log without a segment is damage.
	if err := g.RemoveObjectLog(o.fs); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverEmptied)
	return o.sealer.remove(g)
}
