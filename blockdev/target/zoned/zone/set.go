package zone

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Why a zone does not take an operation.
var (
	ErrPointer       = errors.New("the write does not begin at the zone's write pointer")
	ErrBoundary      = errors.New("the range does not end in the zone where it begins")
	ErrStart         = errors.New("it does not name the start of a zone")
	ErrFull          = errors.New("the zone is full, or has less room")
	ErrReadOnly      = errors.New("the zone is read-only")
	ErrOffline       = errors.New("the zone is offline")
	ErrConventional  = errors.New("the zone is conventional")
	ErrBusy          = errors.New("writes to the zone, or its reset, are under way")
	ErrTooManyOpen   = errors.New("too many zones are explicitly open")
	ErrTooManyActive = errors.New("too many zones are active")
)

// Set is the zones of a disk. Offsets and lengths are in bytes, and on the disk. Safe for concurrent
// use; no method waits for anything but a lock that is held for moments.
type Set struct {
	geo   Geometry
	words []uint64 // the Word of each zone, stored atomically

	mu     sync.Mutex // guards what follows
	zones  []state
	opened []int // implicitly open zones, the first opened first; where MaxOpen limits them
	open   int   // zones
	active int   // zones
}

// state is a zone while the disk is served. Lengths are in bytes, from the zone's start.
type state struct {
	cond    Condition
	written int64
	last    int64
	next    int64
	flying  int  // writes in flight
	replay  bool // the last write may come again
	busy    bool // being reset
}

// New returns the zones of a disk in the given states, which Check finds nothing wrong with. memory
// has room for as many words: the set keeps it, and stores each new state there by one store. It may
// be nil.
func New(g Geometry, states []Word, memory []uint64) (*Set, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if len(states) != g.Zones() {
		return nil, fmt.Errorf("%w: %d states of %d zones", ErrWord, len(states), g.Zones())
	}
	if memory == nil {
		memory = make([]uint64, len(states))
	}
	s := &Set{geo: g, words: memory[:len(states)], zones: make([]state, len(states))}
	for i, w := range states {
		if err := g.Check(i, w); err != nil {
			return nil, err
		}
		z := &s.zones[i]
		z.written, z.last = w.Written(), w.last()
		z.next, z.replay = z.written, z.last != 0
		z.cond = NotWP
		s.move(i, w.Condition())
		s.put(i, w)
	}
	if g.MaxOpen != 0 && s.open > g.MaxOpen || g.MaxActive != 0 && s.active > g.MaxActive {
		return nil, fmt.Errorf("%w: %d zones are open and %d active; %d and %d may be", ErrWord, s.open, s.active, g.MaxOpen, g.MaxActive)
	}
	return s, nil
}

// Geometry is that of the zones.
func (s *Set) Geometry() Geometry { return s.geo }

// Snapshot copies the words of all zones: each as it was at some moment during the call.
func (s *Set) Snapshot(to []Word) {
	for i := range s.words {
		to[i] = Word(atomic.LoadUint64(&s.words[i]))
	}
}

// store makes the word of a zone what its state is: while it is reset, that of an empty zone. The
// caller holds mu.
func (s *Set) store(i int) {
	z := &s.zones[i]
	if z.busy {
		s.put(i, pack(Empty, 0, 0))
		return
	}
	s.put(i, pack(z.cond, z.written, z.last))
}

func (s *Set) put(i int, w Word) { atomic.StoreUint64(&s.words[i], uint64(w)) }

// move changes the condition of a zone. The caller holds mu, and stores the zone.
func (s *Set) move(i int, to Condition) {
	from := s.zones[i].cond
	s.open += one(to.open()) - one(from.open())
	s.active += one(to.active()) - one(from.active())
	if s.geo.MaxOpen != 0 && from != to {
		if from == ImplicitlyOpen {
			s.opened = slices.DeleteFunc(s.opened, func(o int) bool { return o == i })
		}
		if to == ImplicitlyOpen {
			s.opened = append(s.opened, i)
		}
	}
	s.zones[i].cond = to
}

func one(is bool) int {
	if is {
		return 1
	}
	return 0
}

// sequential returns the zone of off if it is a sequential one that can be changed.
func (s *Set) sequential(off int64) (int, *state, error) {
	i := int(off / s.geo.ZoneSize)
	z := &s.zones[i]
	switch {
	case i < s.geo.Conventional:
		return i, z, ErrConventional
	case z.cond == ReadOnly:
		return i, z, ErrReadOnly
	case z.cond == Offline:
		return i, z, ErrOffline
	}
	return i, z, nil
}

// start returns the zone that begins at off, if it is a sequential one that can be changed.
func (s *Set) start(off int64) (int, *state, error) {
	if off%s.geo.ZoneSize != 0 {
		return 0, nil, ErrStart
	}
	return s.sequential(off)
}

// idle is start for a zone that is not being reset. The caller holds mu.
func (s *Set) idle(off int64) (int, *state, error) {
	i, z, err := s.start(off)
	if err == nil && z.busy {
		err = ErrBusy
	}
	return i, z, err
}

// enter makes a zone open, for a write or explicitly. The caller holds mu.
func (s *Set) enter(i int, explicit bool) error {
	z := &s.zones[i]
	if !z.cond.open() {
		if z.cond == Empty && s.geo.MaxActive != 0 && s.active >= s.geo.MaxActive {
			return ErrTooManyActive
		}
		if s.geo.MaxOpen != 0 && s.open >= s.geo.MaxOpen {
			if len(s.opened) == 0 {
				return ErrTooManyOpen
			}
			s.leave(s.opened[0])
		}
		s.move(i, ImplicitlyOpen)
	}
	if explicit {
		s.move(i, ExplicitlyOpen)
	}
	s.store(i)
	return nil
}

// leave closes a zone that is open. The caller holds mu.
func (s *Set) leave(i int) {
	if z := &s.zones[i]; z.written == 0 && z.flying == 0 {
		s.move(i, Empty)
	} else {
		s.move(i, Closed)
	}
	s.store(i)
}

// Open opens the zone at off explicitly. Open explicitly it stays, until it is closed, finished,
// reset or full.
func (s *Set) Open(off int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, z, err := s.idle(off)
	switch {
	case err != nil:
		return err
	case z.cond == Full:
		return ErrFull
	}
	return s.enter(i, true)
}

// Close closes the zone at off if it is open.
func (s *Set) Close(off int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, z, err := s.idle(off)
	if err == nil && z.cond.open() {
		s.leave(i)
	}
	return err
}

// Finish makes the zone at off full. What was not written reads as zeroes.
func (s *Set) Finish(off int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, z, err := s.idle(off)
	switch {
	case err != nil:
		return err
	case z.flying != 0:
		return ErrBusy
	case z.cond == Full:
		return nil
	}
	z.last, z.replay = 0, false
	s.move(i, Full)
	s.store(i)
	return nil
}

// MayReset reports whether the zone at off is one that a reset of all zones resets.
func (s *Set) MayReset(off int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, z, err := s.start(off)
	return err == nil && z.cond != Empty
}

// BeginReset begins to empty the zone at off. Its word is that of an empty zone from now on, and the
// zone takes nothing until EndReset: meanwhile the caller makes the word durable, and frees the
// space. It returns false, and needs no EndReset, where the zone is empty already.
func (s *Set) BeginReset(off int64) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, z, err := s.idle(off)
	switch {
	case err != nil:
		return false, err
	case z.flying != 0:
		return false, ErrBusy
	case z.cond == Empty:
		return false, nil
	}
	z.busy = true
	s.store(i)
	return true, nil
}

// EndReset ends the reset of the zone at off, which is empty then, or as it was before if the reset
// has failed.
func (s *Set) EndReset(off int64, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := int(off / s.geo.ZoneSize)
	z := &s.zones[i]
	z.busy = false
	if !failed {
		z.written, z.next, z.last, z.replay = 0, 0, 0, false
		s.move(i, Empty)
	}
	s.store(i)
}
