package objstore

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// sealer ends segments: it punches what nothing refers to, seals those that have objects, and
// removes those that have none. Its owner decides when a segment ends: the volume, appender or pool
// that appends to it, or the collector for one that is sealed.
//
// Invariants:
//
//   - A segment whose object list is damaged is neither punched, sealed nor removed. While a damaged
//     volume's journal may refer to a segment of an earlier process, neither is that one (holds).
//   - Only bytes that the segment's list does not name are punched.
//   - A segment that can't be sealed for want of space, memory or descriptors stays as it is: its
//     object log still lists what is in it, and the next collection, which owns it from then on, tries
//     again, or the next opening.
//   - After any other error of sealing or of a sync, what a crash would leave is unknown: the store
//     becomes read-only.
//
// It has no lock: a segment is ended by its owner alone.
type sealer struct {
	fs       vfs.FS
	disk     *vfs.Dir // the same, where it is the real one; nil: another
	store    uuid.UUID
	segments *segment.Table
	index    *storeIndex
	gate     gate
	refused  *atomic.Bool // a volume is damaged, and its journals may refer to any segment of an earlier process
	log      *slog.Logger

	punchFailed sync.Once // an error of punching is logged once
}

// holds reports whether a segment must stay because it may hold data that the store does not know
// of: its list is damaged, or a damaged volume's journal may refer to it. The next opening decides
// again.
func (e *sealer) holds(g *segment.File) bool {
	return g.Damaged() || g.Inherited && e.refused.Load()
}

// punch punches the bytes [from, to) except the objects, which are in order of block. After an
// error it continues with the next hole; it returns the first error.
func (e *sealer) punch(g *segment.File, from, to int64, objs []segment.Object) (first error) {
	if g.Damaged() {
		return nil // objs may be incomplete
	}
	defer g.Used.Store(0) // afterwards: a usage read meanwhile may be from before a punch
	i := sort.Search(len(objs), func(i int) bool { return int64(objs[i].Block)*disk.BlockSize >= from })
	for ; from < to; i++ {
		end, next := to, to
		if i < len(objs) {
			if at := int64(objs[i].Block) * disk.BlockSize; at < to {
				end, next = at, at+disk.RoundUp(int64(objs[i].Length), disk.BlockSize)
			}
		}
		if end > from {
			if err := g.Data.Punch(from, end-from); err != nil {
				first = cmp.Or(first, err)
				e.punchFailed.Do(func() { e.log.Warn("space cannot be freed in the file system", "error", err) })
			}
		}
		from = next
	}
	return first
}

// punchFrees reports whether punching a part of what was written at once frees anything.
func (e *sealer) punchFrees() (bool, error) {
	if e.disk == nil {
		return true, nil
	}
	return e.disk.PunchFrees()
}

// endOf ends an append segment of v whose writes have all settled: it is removed if nothing of it
// was adopted, else sealed.
// REQUIRES: v.settleMu is held.
func (e *sealer) endOf(v *volume, g *segment.File) error {
	if e.holds(g) || !v.endSettled(g) {
		return nil
	}
	if g.Blank() {
		return e.remove(g)
	}
	return e.seal(g)
}

// endSettled takes a full segment, whose writes have all settled, from the volume. It returns false
// if the segment is not in that state, or was taken before.
// REQUIRES: settleMu is held.
func (v *volume) endSettled(g *segment.File) bool {
	v.commitMu.Lock() // no commit may be syncing the file when it is closed
	defer v.commitMu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !g.Full || g.Ended || g.Unsettled.Load() != 0 {
		return false
	}
	g.Ended = true
	if v.appendSegment == g {
		v.appendSegment = nil
	}
	if g.Dirty {
		v.dirty = slices.DeleteFunc(v.dirty, func(d *segment.File) bool { return d == g })
	}
	return true
}

// seal seals a segment to which nothing is appended any more.
func (e *sealer) seal(g *segment.File) error {
	err := g.Uncover(e.fs, e.store) // a collection was cut off: what it has given up is punched below
	if errors.Is(disk.SpaceError(err), ErrNoSpace) || disk.Transient(err) {
		e.leaveUnsealed(g, err)
		return nil
	}
	if err != nil {
		return e.gate.fail(fmt.Errorf("seal %s: %w", segment.Name(g.ID), err))
	}
	if g.Inherited && !e.refused.Load() {
		// What a power cut or a kill left in it belongs to no journal, and so to no layer that
		// would free it.
		_ = e.punch(g, disk.BlockSize, g.Capacity, g.OpenObjects()) // the log has it
	}
	return e.sealPunched(g)
}

// leaveUnsealed notes why a segment could not be sealed.
func (e *sealer) leaveUnsealed(g *segment.File, err error) {
	e.log.Warn("a segment can't be sealed", "segment", g.ID, "error", err)
	err = disk.SpaceError(err)
	g.Unsealed.Store(&err)
}

// sealPunched seals a segment of which nothing is left to be punched.
func (e *sealer) sealPunched(g *segment.File) error {
	err := g.Seal(e.fs, e.store)
	if errors.Is(disk.SpaceError(err), ErrNoSpace) || disk.Transient(err) {
		e.leaveUnsealed(g, err)
		return nil
	}
	if err != nil {
		return e.gate.fail(fmt.Errorf("seal %s: %w", segment.Name(g.ID), err))
	}
	g.Unsealed.Store(nil)
	failpoint.Here(failpoint.SealDone)
	if !e.index.has(g.ID) {
		return nil // the indexer marks it when it has entered what is missing
	}
	if err := e.index.markDone(g.ID); err != nil {
		e.log.Warn("a segment was not marked in the index; its objects are entered again when the store opens", "segment", g.ID, "error", err)
	}
	return nil
}

// sealFilled ends the segments of appenders that are full of objects, which are recorded, or given
// up.
func (e *sealer) sealFilled(in *appenders) error {
	if err := e.gate.writeError(); err != nil {
		return err
	}
	for _, a := range in.all() {
		for g := a.nextFilled(); g != nil; g = a.nextFilled() {
			end := e.seal
			if !g.HasObjectLog() { // what failed has filled it
				end = e.remove
			}
			if err := end(g); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove removes a segment that holds nothing. No plan may refer to it any more.
func (e *sealer) remove(g *segment.File) error {
	e.segments.Remove(g.ID)
	e.index.forget(g.ID)
	defer g.Data.Close()
	if err := e.fs.Remove(segment.Name(g.ID)); err != nil {
		return fmt.Errorf("remove a segment that holds nothing: %w", err)
	}
	failpoint.Here(failpoint.RetireRemoved)
	err := e.fs.SyncDir(segment.Dir)
	if disk.Transient(err) {
		e.log.Warn("a segment that holds nothing may come back after a power cut", "segment", g.ID, "error", err)
		return nil
	}
	if err != nil {
		return e.gate.fail(fmt.Errorf("sync %s: %w", segment.Dir, err))
	}
	return nil
}
