package objstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/extent"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
)

// Reserve finds a location for a write. It never blocks on I/O, nor on a lock that is held over
// I/O. ErrBusy: call Wait, from a goroutine that may block, and retry. ErrReadOnly is the other
// error to expect.
func (v *volume) Reserve(off int64, length int, w *Write) error {
	if err := v.validateRange(off, int64(length)); err != nil {
		return err
	}
	if length > MaxRequest {
		return fmt.Errorf("write of %d bytes: %w: at most %d", length, ErrInvalid, MaxRequest)
	}
	need := largestWrite(off, length, v.s.sb.ChunkSize)
	taken := v.s.space.take(need)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ops++
	if err := v.admit(); err != nil {
		return err
	}
	if !taken && v.limits.promise < need {
		return ErrBusy
	}
	growth, err := v.admitGrowth(off, length)
	if err != nil {
		return err
	}
	if err := v.reserve(off, length, w); err != nil {
		v.uncharge(growth)
		return err
	}
	w.growth = growth
	return nil
}

// reserve is Reserve for a write that was admitted.
// REQUIRES: v.mu is held.
func (v *volume) reserve(off int64, length int, w *Write) error {
	slot := disk.RoundUp(int64(length), disk.BlockSize)
	g := v.appendSegment
	if g == nil || g.Next+slot > g.Capacity {
		if g = v.nextSegment(); g == nil {
			return ErrBusy
		}
	}
	*w = Write{FileOff: g.Next, Off: off, Len: length, seg: g}
	w.FD = g.Data.FD(disk.Alignment(int64(length)))
	g.Next += slot
	g.Unsettled.Add(slot)
	v.s.space.inflight.Add(slot)
	v.inflight++
	return nil
}

// errNoWindow is an ErrBusy: the mapped part of the journal is used up. extendJournal maps another.
var errNoWindow = fmt.Errorf("the journal is being extended: %w", ErrBusy)

// admit returns nil if a request that appends a record may proceed, and ErrBusy if it has to wait.
// It never blocks.
// REQUIRES: v.mu is held.
func (v *volume) admit() error {
	if err := v.s.writeError(); err != nil {
		return err
	}
	if err := v.openError(); err != nil {
		return err
	}
	if !v.writable {
		return fmt.Errorf("volume %s: %w for its journal", v.Name(), ErrNoSpace)
	}
	if v.partial.exclusive {
		return ErrBusy // the partial write is about to end
	}
	j := v.active().journal
	if j.Full(v.inflight+1) || v.tail > v.s.opts.TailHard {
		v.s.settler.ask()
		if f := v.attempts.last.Load(); f != nil && v.attempts.failed.Load() >= settleTries {
			return fmt.Errorf("the tail is full and does not settle: %w", f.err)
		}
		return ErrBusy
	}
	if !j.Fits(v.inflight + 1) {
		return errNoWindow
	}
	return nil
}

// nextSegment replaces the append segment by one from the pool, or by the one that the maker has
// ready, and returns it; nil if there is neither.
// REQUIRES: v.mu is held.
func (v *volume) nextSegment() *segment.File {
	g := v.s.appendPool.take()
	if g == nil {
		g = v.s.maker.tryTake()
	}
	if g != nil {
		v.useSegment(g)
	}
	return g
}

func (v *volume) useSegment(g *segment.File) {
	if v.appendSegment != nil {
		v.leaveSegment()
	}
	v.appendSegment = g
	failpoint.Here(failpoint.SegmentRolled)
}

// leaveSegment has the volume's next write go to another segment.
// REQUIRES: v.mu is held, and the volume is writable and has an append segment.
func (v *volume) leaveSegment() {
	g := v.appendSegment
	g.Full = true
	// All writes in it may have settled. With this empty run, reclaiming the active layer ends the
	// segment in any case.
	v.active().hand(g.ID, g.Next, g.Next)
	v.appendSegment = nil
}

// Wait blocks until a request for length bytes at off that got ErrBusy is worth another try: the
// tail has become shorter, there is room for the request and its settling, and a segment to write
// to. hole says that the request was for TryZero. The error is ErrNoSpace if there is no room, and
// neither settling nor a collection makes some; the second is waited for collectPatience at most.
// The request fails with any error that Wait returns.
func (v *volume) Wait(ctx context.Context, off, length int64, hole bool) error {
	for began := time.Now(); ; {
		freed := v.s.space.freed.next()
		err := v.waitSettling(ctx, off, length, hole)
		if !errors.Is(err, ErrNoSpace) || errors.Is(err, errQuota) {
			return err
		}
		left := collectPatience - time.Since(began)
		if left <= 0 || !v.s.collector.promising() && !fired(freed) { // if fired, the last cycle may have ended since the look
			return err
		}
		if err := v.s.waitCollecting(ctx, freed, left); err != nil {
			return err
		}
	}
}

// collectPatience bounds how long a request waits for a collection to make room.
const collectPatience = 20 * time.Second

// waitCollecting blocks until something has given room back, or may have, but no longer than a
// while. The error is that of ctx, or ErrClosed.
func (s *Store) waitCollecting(ctx context.Context, freed <-chan struct{}, atMost time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	s.collector.waiting.Add(1)
	defer s.collector.waiting.Add(-1)
	_ = s.space.wait(limited, freed) // the caller looks again, and for how long it may continue
	if s.ctx.Err() != nil {
		return fmt.Errorf("store: %w", ErrClosed)
	}
	return ctx.Err()
}

// waitSettling is Wait without collections: the error is ErrNoSpace if settling makes no room.
func (v *volume) waitSettling(ctx context.Context, off, length int64, hole bool) error {
	need := holeReservation(int64(v.s.sb.ChunkSize))
	if !hole {
		need = largestWrite(off, int(length), v.s.sb.ChunkSize)
	}
	for {
		freed, room := v.s.space.freed.next(), v.room.next()
		v.mu.Lock()
		err := v.admit()
		v.mu.Unlock()
		switch {
		case err == nil:
			if !hole {
				if err = v.admitByQuota(ctx, off, length); err != nil {
					return err
				}
			}
			if err = v.lookForRoom(need, hole); err == nil && !hole {
				return v.waitSegment(ctx)
			}
			if !errors.Is(err, ErrBusy) {
				return err
			}
			err = v.s.space.wait(ctx, freed, room)
		case errors.Is(err, errNoWindow):
			err = v.extendJournal(1)
		case errors.Is(err, ErrBusy):
			err = waitAny(ctx, freed, room)
		}
		if err != nil {
			return err
		}
	}
}

// lookForRoom is spaceAccount.look, for a volume that may have been promised room.
func (v *volume) lookForRoom(n int64, hole bool) error {
	if !hole && v.hasPromise(n) {
		return nil
	}
	return v.s.space.look(n, hole)
}

// waitSegment blocks until there is a segment with room for a request.
func (v *volume) waitSegment(ctx context.Context) error {
	if v.hasSegment() {
		return nil
	}
	g, err := v.s.maker.take(ctx)
	if err != nil {
		return err
	}
	v.mu.Lock()
	use := v.writable && !v.segmentFits()
	if use {
		v.useSegment(g)
	}
	v.mu.Unlock()
	if !use {
		v.s.maker.giveBack(g)
	}
	return nil
}

// hasSegment reports whether there is a segment with room for a request, or none is needed. It may
// take one from the pool.
func (v *volume) hasSegment() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.writable || v.segmentFits() {
		return true
	}
	g := v.s.appendPool.take()
	if g != nil {
		v.useSegment(g)
	}
	return g != nil
}

// segmentFits reports whether a request of any size fits into the append segment.
// REQUIRES: v.mu is held.
func (v *volume) segmentFits() bool {
	return v.appendSegment != nil && v.appendSegment.Next+MaxRequest <= v.appendSegment.Capacity
}

// Commit makes a completed write visible, and appends it to the journal: the write survives the
// death of this process, and power cuts after the next Flush. On an error the request must fail
// with EIO.
func (v *volume) Commit(w *Write) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.commit(w)
}

// commit is Commit.
// REQUIRES: v.mu is held.
func (v *volume) commit(w *Write) error {
	l, err := v.journalWrite(w)
	if err != nil {
		v.uncharge(w.growth)
		return err
	}
	v.note(l)
	l.bytes += int64(w.Len)
	l.growth += w.growth
	v.uncharge(w.growth)
	v.tail += int64(w.Len)
	v.s.space.commit(int64(w.Len), l.reservation.add(w.Off, w.Off+int64(w.Len), int64(v.s.sb.ChunkSize), false))
	if v.tail > v.s.opts.TailSoft {
		v.s.settler.ask()
	}
	return nil
}

// journalWrite appends a write to the journal and inserts it into the live map.
// REQUIRES: v.mu is held.
func (v *volume) journalWrite(w *Write) (*layer, error) {
	n := uint64(w.Len) / SectorSize
	end := uint64(w.Off)/SectorSize + n
	v.land(w)
	v.room.fire() // each write in flight holds room in the journal for its record
	if err := v.s.writeError(); err != nil {
		return nil, err
	}
	if err := v.openError(); err != nil {
		return nil, err
	}
	l := v.active()
	// Journal and live map change in one critical section: replay must come to the same map.
	if err := l.journal.Append(&journal.Record{
		Type: journal.Data, Sector: end - n, Count: n, Segment: w.seg.ID, Block: uint32(w.FileOff / disk.BlockSize),
	}); err != nil {
		return nil, v.s.fail(err)
	}
	failpoint.Here(failpoint.WriteJournaled)
	l.insert(extent.Extent{End: end, Sectors: n, File: uint64(w.FileOff) / SectorSize, Segment: w.seg.ID})
	v.partial.written(end-n, end)
	l.hand(w.seg.ID, w.FileOff, w.FileOff+disk.RoundUp(int64(w.Len), disk.BlockSize))
	if !w.seg.Dirty {
		w.seg.Dirty = true
		v.dirty = append(v.dirty, w.seg)
	}
	return l, nil
}

func (v *volume) note(l *layer) {
	v.appended++
	l.fresh = true
	if v.since == 0 {
		v.since = time.Duration(v.s.settler.clock.Load())
	}
	if l.journal.Count() == l.journal.Max()/2 {
		v.s.settler.ask()
	}
	if !v.extending && (l.journal.WantsWindow() || l.journal.WantsPages()) {
		v.extending = v.s.extender.ask(v)
	}
}

// land removes a write from those in flight.
// REQUIRES: v.mu is held.
func (v *volume) land(w *Write) {
	v.inflight--
	v.s.space.inflight.Add(-disk.RoundUp(int64(w.Len), disk.BlockSize))
}

// Abort gives up the slot of a write. No I/O to it may be in flight any more.
func (v *volume) Abort(w *Write) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.abort(w)
}

// abort is Abort.
// REQUIRES: v.mu is held.
func (v *volume) abort(w *Write) {
	v.land(w)
	v.uncharge(w.growth)
	v.room.fire()
	v.s.space.lookAgain() // the disk may be full
	if len(v.layers) > 0 {
		v.active().hand(w.seg.ID, w.FileOff, w.FileOff+disk.RoundUp(int64(w.Len), disk.BlockSize))
	}
}

// TryZero makes a hole (discard, write zeroes). It never blocks on I/O, nor on a lock that is held
// over I/O. Its errors are those of Reserve.
func (v *volume) TryZero(off, length int64) error {
	if err := v.validateRange(off, length); err != nil {
		return err
	}
	if !v.s.space.takeHole(holeReservation(int64(v.s.sb.ChunkSize))) {
		return ErrBusy
	}
	n := uint64(length) / SectorSize
	from := uint64(off) / SectorSize
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ops++
	if err := v.admit(); err != nil {
		return err
	}
	l := v.active()
	if err := l.journal.Append(&journal.Record{Type: journal.Hole, Sector: from, Count: n}); err != nil {
		return v.s.fail(err)
	}
	v.note(l)
	l.insert(extent.Extent{End: from + n, Sectors: n})
	v.partial.written(from, from+n)
	v.s.space.commit(0, l.reservation.add(off, off+length, int64(v.s.sb.ChunkSize), true))
	return nil
}
