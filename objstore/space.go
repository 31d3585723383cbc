package objstore

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"varve/objstore/internal/disk"
)

// spaceStep is how many bytes are handed out before it is asked again how much is free.
const spaceStep = 32 << 20

// SmallestMaxSize is the least that MaxSize can be, in bytes: below it the reserve would be most of it.
const SmallestMaxSize = 128 << 20

// account is the store's account of room. Two things bound it: what the file system has free, and, where it is
// set, what the store may take in all. Of both, writes leave the reserve, and what settling may have to write.
type account struct {
	budget  atomic.Int64 // bytes that may be handed out before it is asked again how much is free
	debt    atomic.Int64 // bytes that settling the layers may write
	flying  atomic.Int64 // bytes of slots whose writes are under way: the file system may not know of them yet
	tails   atomic.Int64 // bytes of writes in layers that have not settled
	crowded atomic.Bool  // writes wait for room that settling may give back, or need
	tight   atomic.Bool  // the tails take more than the room that is left

	stuckTails atomic.Int64 // of tails, bytes in volumes whose settling fails again and again
	stuckDebt  atomic.Int64 // of debt, the same
	roomSeen   atomic.Int64 // bytes that writes could take at the settler's last look

	total   int64 // of the file system, when the store was opened
	reserve atomic.Int64
	maxSize atomic.Int64 // of the store; 0: none
	gained  atomic.Int64 // how often settling has given room or debts back

	reclaiming   atomic.Int64 // layers that have settled and whose room is not given back yet
	reclaimSince atomic.Int64 // when the last one came or went, uptime in nanoseconds

	usage usage
	mark  watermark
}

// takeSpace admits a write that may take n bytes, with what settling it may take, or refuses it while there is
// still room to delete, settle and open. ErrBusy: there is no room now, but settling may give some back, or may need
// what there is first.
//
// A hole frees space in the end: no maximum is in its way, and it may use what the disk keeps from writes; but only
// half of that, for its edges may have to be copied, and a store that can't settle can't free anything.
func (s *Store) takeSpace(n int64, hole bool) error {
	if s.budget.Add(-n) >= 0 {
		return nil
	}
	s.spaceMu.Lock()
	defer s.spaceMu.Unlock()
	if s.budget.Load() >= 0 {
		return nil
	}
	gained := s.gained.Load()
	owed := s.debt.Load()
	free, room, err := s.rooms()
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	s.budget.Store(max(min(room-owed-n, spaceStep), 0))
	left := room
	if hole {
		left = free - s.reserve.Load()/2
	}
	if left-owed >= n {
		return nil
	}
	if s.mayGain(gained, left >= n) {
		return ErrBusy
	}
	s.mark.refused.Store(!hole || s.mark.refused.Load())
	limit := "in the store's file system"
	if m := s.maxSize.Load(); m > 0 {
		limit = fmt.Sprintf("there and below the store's maximum of %d", m)
	}
	return fmt.Errorf("%w: %d bytes free %s, beside the reserve of %d and %d for settling",
		ErrNoSpace, max(room, 0), limit, s.reserve.Load(), owed)
}

// mayGain reports whether a request that finds no room should wait: settling may give room back, or, where only
// debts are in the way (owing), pay these. gained is what the count was when the room was looked at.
func (s *Store) mayGain(gained int64, owing bool) bool {
	pending := func() bool {
		return s.tails.Load() > s.stuckTails.Load() || owing && s.debt.Load() > s.stuckDebt.Load() || s.returning()
	}
	if s.failed.Load() != nil || !pending() {
		return false
	}
	// Whoever gives something back looks at crowded after that, and here it is the other way round.
	s.crowded.Store(true)
	if s.gained.Load() != gained || !pending() {
		s.leaveRoom()
	}
	s.kickSettler()
	return true
}

// returning reports whether layers have settled whose room is about to be given back. Readers keep it from that; a
// write does not wait for those for long.
func (s *Store) returning() bool {
	return s.reclaiming.Load() > 0 && s.uptime()-time.Duration(s.reclaimSince.Load()) < reclaimPatience
}

// noteReclaim counts layers that wait to be reclaimed.
func (s *Store) noteReclaim(n int64) {
	s.reclaimSince.Store(int64(s.uptime()))
	s.reclaiming.Add(n)
}

// pay takes layers that are gone off the account.
func (s *Store) pay(l *layer) {
	s.tails.Add(-l.bytes)
	s.debt.Add(-l.debt.bytes)
	s.gain()
}

// gain lets those try again who wait for room: there may be more of it.
func (s *Store) gain() {
	s.gained.Add(1)
	s.leaveRoom()
}

// leaveRoom ends the wait for room.
func (s *Store) leaveRoom() {
	if s.crowded.Swap(false) {
		s.wakeAll()
	}
}

// room says how many bytes writes may still take. It may be negative.
func (s *Store) room() (int64, error) {
	_, room, err := s.rooms()
	return room, err
}

// rooms says what the file system has free, and how much of it writes may still take.
func (s *Store) rooms() (free, room int64, err error) {
	// A write that ends meanwhile is counted twice, not missed.
	flying := s.flying.Load()
	if _, free, err = s.fs.Space(); err != nil {
		return 0, 0, err
	}
	free -= flying
	room = free
	if limit := s.maxSize.Load(); limit > 0 {
		used, err := s.used()
		if err != nil {
			return 0, 0, err
		}
		room = min(room, limit-used-flying)
	}
	return free, room - s.reserve.Load(), nil
}

// setLimits works the reserve out.
func (s *Store) setLimits(maxSize int64) {
	limit := s.total
	if maxSize > 0 {
		limit = min(limit, maxSize)
	}
	reserve := s.opts.Reserve
	if reserve == 0 {
		reserve = min(max(limit/20, smallestReserve), largestReserve)
	}
	s.reserve.Store(reserve)
	s.maxSize.Store(maxSize)
}

// SetMaxSize bounds what the store's files may take on disk, in bytes; 0: only the file system does. It is kept in
// the store. Writes stop short of it by the reserve, and it may be below what is used: then they stop at once.
func (s *Store) SetMaxSize(bytes int64) error {
	if err := checkMaxSize(bytes); err != nil {
		return err
	}
	return s.setMaxSize(bytes)
}

func (s *Store) setMaxSize(bytes int64) error {
	if err := s.catalog.append(refRecord{Op: opMaxSize, Size: bytes}); err != nil {
		return err
	}
	s.spaceMu.Lock()
	s.setLimits(bytes)
	s.budget.Store(0)
	s.spaceMu.Unlock()
	s.leaveRoom()
	s.kickSettler()
	return nil
}

func checkMaxSize(n int64) error {
	if n != 0 && n < SmallestMaxSize {
		return fmt.Errorf("maximum size %d bytes: %w: want at least %d, or 0 for none", n, ErrInvalid, SmallestMaxSize)
	}
	return nil
}

// spaceError gives ErrNoSpace for the errnos that mean it, and has it asked what is free before the next write.
func (s *Store) spaceError(err error) error {
	err = disk.SpaceError(err)
	if errors.Is(err, ErrNoSpace) {
		s.budget.Store(-1)
	}
	return err
}

// writeError says why writes are refused, or nil.
func (s *Store) writeError() error {
	if p := s.failed.Load(); p != nil {
		return fmt.Errorf("%w: %w", ErrReadOnly, *p)
	}
	return nil
}

// fail turns the store read-only: what it can't make durable it must not pretend to have. It gives the error back.
func (s *Store) fail(err error) error {
	if s.failed.CompareAndSwap(nil, &err) {
		s.log.Error("the store is read-only from now on", "error", err)
		s.wakeAll()
	}
	return fmt.Errorf("%w: %w", ErrReadOnly, err)
}
