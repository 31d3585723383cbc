package objstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/refs"
)

const (
	// spaceStep is how many bytes are handed out between two looks at what is free.
	spaceStep = 32 << 20
	// holeStep is the same for holes, of the part of the reserve that only they may use.
	holeStep = 4 << 20
)

// SmallestMaxSize is the least that MaxSize can be, in bytes: below it the reserve would be most of
// it.
const SmallestMaxSize = 128 << 20

// spaceAccount is the store's account of room: how much requests may take, and which wait for it.
// Two things bound the store: the free space of its file system, and its maximum size, if that is
// set. Of the lesser of the two, writes leave the reserve and what settling the tails may have to
// write.
//
//	file system    | used by others | used by the store | inflight | budget ... | reserved | promised | reserve |
//
// A look at the disk grants a budget. Requests take from the budget and look at nothing else, so
// that take and takeHole never block; a goroutine of the store (run) looks again when half of the
// budget is used. A request that finds too little budget calls look on a goroutine that may block.
// look tells whether there is room, whether to wait for settling, which may make some, or whether
// the request must be refused.
//
// Room is taken by requests (take, takeHole) and by what settling writes once more (mustTake). It
// comes back from settling (settled) and from the reclaimer (returned). What is dead in the
// segments, and could be collected, is not counted here: the account sees it as used until it is
// returned to the file system.
//
// Invariants:
//
//   - budget + reserved + promised + reserve is at most what was free at the last look; what the file system
//     does not know yet of writes under way (inflight) was taken off that. A request that has taken
//     and is not in inflight yet at the time of a look is missed: the reserve has room for that.
//   - reserved and tails are the sums over all layers that have not settled, stuckReserved and
//     stuckTails those over the layers of volumes whose settling fails again and again. No write
//     waits for the latter.
//   - Whatever may let a waiter continue fires freed, after it has changed the account.
//
// lookMu serialises looks and is held over I/O. Nothing else is locked but the watermark's state.
type spaceAccount struct {
	budget   atomic.Int64 // bytes that writes may take before the next look
	holes    atomic.Int64 // bytes that holes may take besides, of the reserve
	reserved atomic.Int64 // bytes that settling the layers may write: see settleReservation
	inflight atomic.Int64 // bytes of slots whose writes are under way: the file system may not know of them yet
	tails    atomic.Int64 // bytes of writes in layers that have not settled

	stuckTails    atomic.Int64 // the part of tails in volumes whose settling fails again and again
	stuckReserved atomic.Int64 // the same of reserved

	promised atomic.Int64 // bytes that only volumes with a reservation may still take

	waiting  atomic.Int64 // how many requests wait for room that settling may make
	lowSpace atomic.Bool  // the tails and their reservation take more than the room that is left
	roomSeen atomic.Int64 // bytes that writes could take at the settler's last look
	freed    event        // there may be more room, or less to wait for

	lookMu lockorder.IOMutex[lockorder.FreeSpace]
	refill chan struct{} // asks run for a look

	total   int64 // bytes of the file system when the store was opened
	reserve atomic.Int64
	maxSize atomic.Int64 // bytes that the store's files may take; 0: only the file system bounds them

	mark watermark
	deps spaceDeps
}

// spaceDeps are what the account needs of the store. All but free and used must not block.
type spaceDeps struct {
	free         func() (int64, error) // bytes that the file system has free; blocks
	used         func() (int64, error) // bytes that the store's files occupy; blocks
	kept         func() int64          // bytes that the file system does not have free, and that can be given up; nil: none
	returning    func() bool           // settled layers are about to free their room
	wantSettling func()                // called when a request waits for room
	stopped      func() bool           // nothing settles any more: the store is read-only
	log          *slog.Logger
}

func newSpaceAccount(total int64, deps spaceDeps) *spaceAccount {
	return &spaceAccount{total: total, refill: make(chan struct{}, 1), deps: deps}
}

// take takes n bytes of the budget for a write and what settling it may take. It never blocks.
// false: look.
func (a *spaceAccount) take(n int64) bool {
	left, ok := takeOf(&a.budget, n)
	if ok && left < spaceStep/2 && left+n >= spaceStep/2 {
		a.askForLook()
	}
	return ok
}

// takeHole is take for a hole. A hole frees space in the end: no maximum is in its way, and it may
// use what the file system keeps from writes; but only half of that, for its edges may have to be
// copied, and a store that can't settle can't free anything.
func (a *spaceAccount) takeHole(n int64) bool {
	if a.take(n) {
		return true
	}
	_, ok := takeOf(&a.holes, n)
	return ok
}

func takeOf(from *atomic.Int64, n int64) (left int64, ok bool) {
	for {
		was := from.Load()
		if was < n {
			return was, false
		}
		if from.CompareAndSwap(was, was-n) {
			return was - n, true
		}
	}
}

// has reports whether take or takeHole would succeed now.
func (a *spaceAccount) has(n int64, hole bool) bool {
	return a.budget.Load() >= n || hole && a.holes.Load() >= n
}

// mustTake is take for a caller that may block, and that can't wait for settling. The errors are
// those of look.
func (a *spaceAccount) mustTake(n int64, hole bool) error {
	take := a.take
	if hole {
		take = a.takeHole
	}
	for !take(n) {
		if err := a.look(n, hole); err != nil {
			return err
		}
	}
	return nil
}

// wait blocks until one of the events; meanwhile the settler knows of a waiter for room.
func (a *spaceAccount) wait(ctx context.Context, events ...<-chan struct{}) error {
	a.waiting.Add(1)
	defer a.waiting.Add(-1)
	a.deps.wantSettling()
	return waitAny(ctx, events...)
}

// look looks at the disk, sets the budget by it, and says whether n bytes are to be had: nil;
// ErrBusy, if there is no room now, but settling may give some back, or may need what there is
// first; else ErrNoSpace. It blocks.
func (a *spaceAccount) look(n int64, hole bool) error {
	a.lookMu.Lock()
	defer a.lookMu.Unlock()
	if a.has(n, hole) {
		return nil // another goroutine has looked meanwhile
	}
	reserved := a.reserved.Load()
	free, room, err := a.setBudget()
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	left := room
	if hole {
		left = a.roomForHoles(free)
	}
	switch {
	case left-reserved >= n:
		return nil
	case a.settlingHelps(left >= n):
		return ErrBusy
	}
	a.mark.refused.Store(!hole || a.mark.refused.Load())
	limit := "in the store's file system"
	if m := a.maxSize.Load(); m > 0 {
		limit = fmt.Sprintf("there and below the store's maximum of %d", m)
	}
	others := ""
	if p := a.promised.Load(); p > 0 {
		others = fmt.Sprintf(", %d for volumes with a reservation,", p)
	}
	return fmt.Errorf("%w: %d bytes free %s, beside the reserve of %d%s and %d for settling",
		ErrNoSpace, max(room, 0), limit, a.reserve.Load(), others, reserved)
}

// settlingHelps reports whether a request that finds no room should wait: settling may give room
// back, or, where only reservations are in the way, use these.
func (a *spaceAccount) settlingHelps(onlyReserved bool) bool {
	if a.deps.stopped() {
		return false
	}
	return a.tails.Load() > a.stuckTails.Load() || onlyReserved && a.reserved.Load() > a.stuckReserved.Load() || a.deps.returning()
}

// setBudget looks at the disk and grants a budget. What is taken meanwhile is taken from that too.
// REQUIRES: lookMu is held.
func (a *spaceAccount) setBudget() (free, room int64, err error) {
	budget, holes, reserved := a.budget.Load(), a.holes.Load(), a.reserved.Load()
	if free, room, err = a.rooms(); err != nil {
		return 0, 0, err
	}
	grant := func(n, step int64) int64 { return min(max(n-reserved, 0), step) }
	a.budget.Add(grant(room, spaceStep) - budget)
	a.holes.Add(grant(a.roomForHoles(free), holeStep) - holes)
	return free, room, nil
}

// roomForHoles returns how much of what is free holes may take: all but half of the reserve, or half of
// what is kept for a full disk, with which they settle there.
func (a *spaceAccount) roomForHoles(free int64) int64 {
	n := free - a.reserve.Load()/2
	if a.deps.kept != nil {
		n = max(n, a.deps.kept()/2)
	}
	return n
}

// askForLook has run look at the disk. It never blocks.
func (a *spaceAccount) askForLook() {
	select {
	case a.refill <- struct{}{}:
	default:
	}
}

// run renews the budget before requests need it, until ctx ends.
func (a *spaceAccount) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.refill:
		}
		a.lookMu.Lock()
		_, _, _ = a.setBudget() // a request that finds no budget looks itself, and gets the error
		a.lookMu.Unlock()
	}
}

// lookAgain has the next request find out what is free: the last look may be wrong. It never
// blocks.
func (a *spaceAccount) lookAgain() {
	a.budget.Store(0)
	a.holes.Store(0)
}

// commit notes a write of n bytes that has become part of a tail, and how many bytes more settling
// may write for it.
func (a *spaceAccount) commit(n, reserved int64) {
	a.tails.Add(n)
	if reserved > 0 {
		a.reserved.Add(reserved)
	}
}

// settled takes a layer off the account: it has settled, or was dropped.
func (a *spaceAccount) settled(l *layer) {
	a.tails.Add(-l.bytes)
	a.reserved.Add(-l.reservation.bytes)
	a.freed.fire()
}

// returned says that room was returned to the file system.
func (a *spaceAccount) returned() { a.freed.fire() }

// room returns how many bytes writes may still take. It may be negative. It blocks.
func (a *spaceAccount) room() (int64, error) {
	_, room, err := a.rooms()
	return room, err
}

// rooms returns what the file system has free, and how much of it writes may still take. It blocks.
func (a *spaceAccount) rooms() (free, room int64, err error) {
	// A write that ends meanwhile is counted twice, not missed.
	inflight := a.inflight.Load()
	if free, err = a.deps.free(); err != nil {
		return 0, 0, err
	}
	free -= inflight
	room = free
	if limit := a.maxSize.Load(); limit > 0 {
		used, err := a.deps.used()
		if err != nil {
			return 0, 0, err
		}
		room = min(room, limit-used-inflight)
	}
	return free, room - a.reserve.Load() - a.promised.Load(), nil
}

// setLimits sets the reserve, or works out the default one, and the maximum.
func (a *spaceAccount) setLimits(reserve, maxSize int64) {
	if reserve == 0 {
		reserve = min(max(a.limit(maxSize)/20, smallestReserve), largestReserve)
	}
	a.reserve.Store(reserve)
	a.maxSize.Store(maxSize)
	a.lookAgain()
	a.freed.fire()
}

// limit is the lesser of the file system's size and a maximum.
func (a *spaceAccount) limit(maxSize int64) int64 {
	if maxSize > 0 {
		return min(a.total, maxSize)
	}
	return a.total
}

// tick looks for room and warns of too little. Requests that wait for room look again: it may come
// from something other than settling, or not at all. The settler calls it; it blocks.
func (a *spaceAccount) tick() {
	room, err := a.room()
	a.lowSpace.Store(err == nil && room < a.tails.Load()+a.reserved.Load())
	if err != nil {
		return
	}
	a.roomSeen.Store(room)
	a.watch(room, time.Now())
	a.freed.fire()
}

// stuck adds to the tails that settling does not come through with, and their reservation.
func (a *spaceAccount) stuck(tail, reserved int64) {
	a.stuckTails.Add(tail)
	a.stuckReserved.Add(reserved)
}

// noteError returns ErrNoSpace for the errnos that mean it, and then has the next request look at
// what is free.
func (a *spaceAccount) noteError(err error) error {
	err = disk.SpaceError(err)
	if errors.Is(err, ErrNoSpace) {
		a.lookAgain()
	}
	return err
}

// waitAny blocks until one of at most two events, or the end of ctx, which is the error.
func waitAny(ctx context.Context, events ...<-chan struct{}) error {
	var both [2]<-chan struct{}
	copy(both[:], events)
	select {
	case <-both[0]:
		return nil
	case <-both[1]:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// SetMaxSize bounds what the store's files may take on disk, in bytes; 0: only the file system
// does. It is kept in the store. Writes stop short of it by the reserve, and it may be below what
// is used: then they stop at once.
func (s *Store) SetMaxSize(ctx context.Context, bytes int64) error {
	if err := checkMaxSize(bytes); err != nil {
		return err
	}
	return s.setMaxSize(ctx, bytes)
}

func (s *Store) setMaxSize(ctx context.Context, bytes int64) error {
	if err := s.catalog.append(ctx, refs.Record{Op: refs.OpMaxSize, Size: bytes}); err != nil {
		return err
	}
	s.space.setLimits(s.opts.Reserve, bytes)
	s.settler.ask()
	return nil
}

func checkMaxSize(n int64) error {
	if n != 0 && n < SmallestMaxSize {
		return fmt.Errorf("maximum size %d bytes: %w: want at least %d, or 0 for none", n, ErrInvalid, SmallestMaxSize)
	}
	return nil
}

// spaceError is spaceAccount.noteError.
func (s *Store) spaceError(err error) error { return s.space.noteError(err) }

// writeError returns why writes are refused, or nil.
func (s *Store) writeError() error {
	if p := s.failed.Load(); p != nil {
		return fmt.Errorf("%w: %w", ErrReadOnly, *p)
	}
	return nil
}

// fail turns the store read-only: what it can't make durable it must not pretend to have. It
// returns the error. It never blocks, and may be called under any lock.
func (s *Store) fail(err error) error {
	if s.failed.CompareAndSwap(nil, &err) {
		s.log.Error("the store is read-only from now on", "error", err)
		s.space.freed.fire() // every request that waits looks again
	}
	return fmt.Errorf("%w: %w", ErrReadOnly, err)
}
