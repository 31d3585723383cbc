package objstore

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// spaceStep is how many bytes are handed out before the file system is asked again how much is free.
const spaceStep = 32 << 20

// takeSpace admits a write of n bytes, and what settling it may take, or refuses it while there is still room
// to delete, settle and open. ErrBusy: there is room, but settling the tails may need it first.
func (s *Store) takeSpace(n int64) error {
	if s.budget.Add(-n) >= 0 {
		return nil
	}
	s.spaceMu.Lock()
	defer s.spaceMu.Unlock()
	if s.budget.Load() >= 0 {
		return nil
	}
	free, err := s.room()
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	owed := s.debt.Load()
	if free-owed >= n {
		s.budget.Store(min(free-owed-n, spaceStep))
		return nil
	}
	s.budget.Store(0)
	if free >= n && owed > 0 && s.settleFails.Load() < settleTries {
		// Whoever pays a debt looks at crowded after that, and here it is the other way round.
		s.crowded.Store(true)
		if s.debt.Load() < owed {
			s.crowded.Store(false)
		}
		s.kickSettler()
		return ErrBusy
	}
	return fmt.Errorf("%w: %d bytes free beside the reserve of %d and %d for settling", ErrNoSpace, max(free, 0), s.reserve, owed)
}

// pay takes debts of layers that are gone off the account.
func (s *Store) pay(n int64) {
	s.debt.Add(-n)
	s.leaveRoom()
}

// leaveRoom lets those try again who wait for room that settling may need.
func (s *Store) leaveRoom() {
	if s.crowded.Swap(false) {
		s.wakeAll()
	}
}

// room says how many bytes writes may still take. It may be negative.
func (s *Store) room() (int64, error) {
	_, free, err := s.fs.Space()
	return free - s.reserve, err
}

// spaceError gives ErrNoSpace for the errnos that mean it, and has the file system asked before the next write.
func (s *Store) spaceError(err error) error {
	err = outOfSpace(err)
	if errors.Is(err, ErrNoSpace) {
		s.budget.Store(-1)
	}
	return err
}

func outOfSpace(err error) error {
	if !errors.Is(err, ErrNoSpace) && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
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
