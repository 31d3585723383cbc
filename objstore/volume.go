package objstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/extent"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// Volume is a volume held open by one user. All users of a volume share one engine object, so that a write
// through one is read through the others at once. Safe for concurrent use.
type Volume struct {
	*volume
	user    string
	closed  atomic.Bool
	claimed [sides]int // of volume.claims; guarded by catalog.mu
}

// Close gives the volume up, after a Flush.
func (v *Volume) Close() error {
	if v.closed.Swap(true) {
		return fmt.Errorf("volume %s: %w", v.ref.name, ErrClosed)
	}
	err := v.Flush()
	v.s.catalog.unclaim(v)
	v.s.catalog.leave(v.volume, v.user)
	return err
}

// volume is the engine object of a volume.
type volume struct {
	s   *Store
	ref *volumeRef // name, ID, sizes don't change; the rest is guarded by catalog.mu

	users    []string   // guarded by catalog.mu
	deleting bool       // its deletion is being recorded: nobody may open it; guarded by catalog.mu
	claims   [sides]int // guarded by catalog.mu

	dropped atomic.Bool // deleted: settling stops
	verify  atomic.Bool // ref.verify, for readers
	damage  atomic.Pointer[volumeDamage]

	settleErr   atomic.Pointer[error] // why it did not settle, for those who wait
	settleFails atomic.Int64          // how often in a row
	wanted      atomic.Int64          // who waits for its settling
	changes     atomic.Int64          // what may have helped a settling that fails
	obstacle    obstacle              // under settleMu
	nextTry     retry                 // after a failure
	kept        atomic.Pointer[keptChunks]

	counted map[merkle.Hash]int64 // chunks in subtrees that the oldest layer discards; under settleMu

	settleMu sync.Mutex // one at a time settles its layers, gives their room back or drops them; taken before all others
	freezeMu sync.Mutex // one freeze at a time
	commitMu sync.Mutex // one commit at a time; taken before mu
	durable  uint64     // records that are durable; under commitMu
	rmw      sync.Mutex // one write of part of a sector at a time; taken before mu

	mu       sync.Mutex
	room     sync.Cond // the tail has become shorter, or the volume is closed
	layers   []*layer  // oldest first; the last one is active while writable
	writable bool
	closed   bool // by Store.Close, or deleted

	unjournaled bool // opened, but there was no room for a journal

	base          *base
	baseGen       uint64        // the generation that the base holds
	baseData      int64         // its bytes that are not holes
	appendSegment *segment.File // where writes go
	dirty         []*segment.File
	pin           *pin
	namings       []*naming // snapshots that are being made
	appended      uint64    // records ever appended
	inflight      int       // writes reserved
	tail          int64     // bytes in layers
	ops           uint64    // requests, to tell a busy volume
	partial       partial
	idleAt        time.Duration // the uptime from which on nobody uses it and nothing waits to settle; 0: that is not so
	since         time.Duration // the uptime at which the active layer became non-empty; 0: empty

	stuckTail, stuckDebt int64 // bytes that the account of stuck ones has of this volume
}

func newVolume(s *Store, ref *volumeRef, b *base) *volume {
	v := &volume{s: s, ref: ref, base: b, pin: newPin()}
	v.room.L = &v.mu
	v.verify.Store(ref.verify)
	s.depth.Store(max(s.depth.Load(), int64(b.root.Depth))) // under s.catalog.mu, or while the store opens
	return v
}

// Name of the volume.
func (v *volume) Name() string { return v.ref.name }

// ID is the volume's UUID, 16 bytes.
func (v *volume) ID() [16]byte { return v.ref.id }

// Size in bytes.
func (v *volume) Size() int64 { return v.ref.size }

// BlockSize is the logical block size in bytes.
func (v *volume) BlockSize() int { return v.ref.blockSize }

func (v *volume) checkRange(off, length int64) error {
	if off < 0 || length <= 0 || off > v.ref.size-length || (off|length)%SectorSize != 0 {
		return fmt.Errorf("range of %d bytes at %d: %w: want whole sectors within the %d bytes of %s", length, off, ErrInvalid, v.ref.size, v.ref.name)
	}
	return nil
}

// Plan implements [Image].
func (v *volume) Plan(off int64, length int, p *Plan) error {
	if err := v.checkRange(off, int64(length)); err != nil {
		return err
	}
	if length > MaxRequest {
		return fmt.Errorf("plan of %d bytes: %w: at most %d", length, ErrInvalid, MaxRequest)
	}
	p.Pieces = p.Pieces[:0]
	from := uint64(off) / SectorSize
	v.mu.Lock()
	v.ops++
	err := v.openError()
	if err == nil {
		err = planLayers(v.layers, v.base, p, from, from+uint64(length)/SectorSize)
	}
	p.check = v.checkOf(&v.base.root, off)
	if err == nil {
		p.pin = v.pin
		p.pin.n.Add(1)
	}
	v.mu.Unlock()
	if err != nil {
		p.Pieces = p.Pieces[:0]
		return err
	}
	p.resolve()
	return nil
}

// Release implements [Image].
func (v *volume) Release(p *Plan) { p.release() }

func (p *Plan) release() {
	if p.pin != nil {
		p.pin.release()
		p.pin = nil
	}
}

// Load implements [Image].
func (v *volume) Load(ctx context.Context, off int64, length int) error {
	return v.s.load(ctx, &v.mu, func() *base { return v.base }, off, int64(length))
}

func (v *volume) sweep(n int64) {
	v.mu.Lock()
	v.base.sweep(n)
	v.mu.Unlock()
}

// Reserve finds a place for a write. It never blocks on I/O. ErrBusy: call Wait, from a goroutine that may
// block, and retry. ErrNoSpace and ErrReadOnly are the other errors to expect.
func (v *volume) Reserve(off int64, length int, w *Write) error {
	if err := v.checkRange(off, int64(length)); err != nil {
		return err
	}
	if length > MaxRequest {
		return fmt.Errorf("write of %d bytes: %w: at most %d", length, ErrInvalid, MaxRequest)
	}
	if err := v.s.takeSpace(largestWrite(off, length, v.s.sb.chunkSize), false); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ops++
	if err := v.admit(); err != nil {
		return err
	}
	return v.reserve(off, length, w)
}

// reserve is Reserve for a write that was admitted. Under v.mu.
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
	v.s.flying.Add(slot)
	v.inflight++
	return nil
}

// admit says whether a request that appends a record may go on. Under v.mu.
func (v *volume) admit() error {
	if err := v.s.writeError(); err != nil {
		return err
	}
	if err := v.openError(); err != nil {
		return err
	}
	if !v.writable {
		return fmt.Errorf("volume %s: %w for its journal", v.ref.name, ErrNoSpace)
	}
	if v.partial.exclusive {
		return ErrBusy // it is about to be over
	}
	full, err := v.active().journal.room(v.inflight + 1)
	if err != nil {
		return fmt.Errorf("extend journal: %w", v.s.spaceError(err))
	}
	if full || v.tail > v.s.opts.TailHard {
		v.s.kickSettler()
		if p := v.settleErr.Load(); p != nil && v.settleFails.Load() >= settleTries {
			return fmt.Errorf("the tail is full and does not settle: %w", *p)
		}
		return ErrBusy
	}
	return nil
}

// openError says that the store was closed, or the volume deleted or damaged. Under v.mu.
func (v *volume) openError() error {
	if v.closed {
		return fmt.Errorf("volume %s: %w", v.ref.name, ErrClosed)
	}
	return v.damageError()
}

func (v *volume) active() *layer { return v.layers[len(v.layers)-1] }

// nextSegment replaces the append segment by one from the pool or by the spare one; nil if that is still being made. Under
// v.mu.
func (v *volume) nextSegment() *segment.File {
	g := v.s.appendPool.take()
	if g == nil {
		g = v.s.trySegment()
	}
	if g != nil {
		v.useSegment(g)
	}
	return g
}

func (v *volume) useSegment(g *segment.File) {
	if g := v.appendSegment; g != nil {
		g.Full = true
		// It may have settled as far as it was used: the end of the active layer is its end too.
		v.active().hand(g.ID, g.Next, g.Next)
	}
	v.appendSegment = g
	failpoint.Here(failpoint.SegmentRolled)
}

// Wait blocks until a request that got ErrBusy is worth another try: the tail has become shorter, there is room
// for its settling, and a segment to write to.
func (v *volume) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		v.mu.Lock()
		v.room.Broadcast()
		v.mu.Unlock()
	})
	defer stop()
	v.mu.Lock()
	defer v.mu.Unlock()
	for {
		err := v.admit()
		if err == nil && v.s.crowded.Load() {
			err = ErrBusy
		}
		if !errors.Is(err, ErrBusy) {
			break // any other error is for the next try to report
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		v.room.Wait()
	}
	return v.waitSegment()
}

// waitSegment blocks until there is a segment to write to. Under v.mu, which it gives up meanwhile.
func (v *volume) waitSegment() error {
	if v.appendSegment != nil && v.appendSegment.Next+MaxRequest <= v.appendSegment.Capacity {
		return nil
	}
	if g := v.s.appendPool.take(); g != nil {
		v.useSegment(g)
		return nil
	}
	v.mu.Unlock()
	g, err := v.s.takeSegment()
	v.mu.Lock()
	switch {
	case err != nil:
		return err
	case !v.writable || v.appendSegment != nil && v.appendSegment.Next+MaxRequest <= v.appendSegment.Capacity:
		v.s.giveSegmentBack(g)
	default:
		v.useSegment(g)
	}
	return nil
}

// Commit makes a completed write visible and journaled; it survives the death of this process, and power
// cuts after the next Flush. An error means that the request must fail with EIO.
func (v *volume) Commit(w *Write) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.commit(w)
}

// commit is Commit under v.mu.
func (v *volume) commit(w *Write) error {
	l, err := v.place(w)
	if err != nil {
		return err
	}
	v.note(l)
	l.bytes += int64(w.Len)
	v.tail += int64(w.Len)
	v.s.tails.Add(int64(w.Len))
	if owed := l.debt.owe(w.Off, w.Off+int64(w.Len), int64(v.s.sb.chunkSize), false); owed > 0 {
		v.s.debt.Add(owed)
	}
	if v.tail > v.s.opts.TailSoft {
		v.s.kickSettler()
	}
	return nil
}

// place puts a write into the journal and into the live map. Under v.mu.
func (v *volume) place(w *Write) (*layer, error) {
	n := uint64(w.Len) / SectorSize
	end := uint64(w.Off)/SectorSize + n
	v.land(w)
	v.room.Broadcast() // what is in flight takes room in the journal, for its commits
	if err := v.s.writeError(); err != nil {
		return nil, err
	}
	if err := v.openError(); err != nil {
		return nil, err
	}
	l := v.active()
	// The journal and the live map in one critical section: replay must come to the same map.
	if err := l.journal.append(&journalRecord{
		kind: recordData, sector: end - n, count: n, segment: w.seg.ID, block: uint32(w.FileOff / disk.BlockSize),
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
		v.since = time.Duration(v.s.clock.Load())
	}
	if l.journal.count == l.journal.max/2 {
		v.s.kickSettler()
	}
}

// land takes a write out of those under way. Under v.mu.
func (v *volume) land(w *Write) {
	v.inflight--
	v.s.flying.Add(-disk.RoundUp(int64(w.Len), disk.BlockSize))
}

// Abort gives the place up. No I/O to it may be in flight any more.
func (v *volume) Abort(w *Write) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.abort(w)
}

// abort is Abort under v.mu.
func (v *volume) abort(w *Write) {
	v.land(w)
	v.room.Broadcast()
	v.s.budget.Store(0) // the disk may be full: the next write asks
	if len(v.layers) > 0 {
		v.active().hand(w.seg.ID, w.FileOff, w.FileOff+disk.RoundUp(int64(w.Len), disk.BlockSize))
	}
}

// TryZero makes a hole (discard, write zeroes). It never blocks on I/O; ErrBusy as of Reserve.
func (v *volume) TryZero(off, length int64) error {
	if err := v.checkRange(off, length); err != nil {
		return err
	}
	if err := v.s.takeSpace(holeDebt(int64(v.s.sb.chunkSize)), true); err != nil {
		return err
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
	if err := l.journal.append(&journalRecord{kind: recordHole, sector: from, count: n}); err != nil {
		return v.s.fail(err)
	}
	v.note(l)
	l.insert(extent.Extent{End: from + n, Sectors: n})
	v.partial.written(from, from+n)
	if owed := l.debt.owe(off, off+length, int64(v.s.sb.chunkSize), true); owed > 0 {
		v.s.debt.Add(owed)
	}
	return nil
}
