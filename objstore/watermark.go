package objstore

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// SpaceState says how much room writes have left.
type SpaceState string

// The states of Stat.State.
const (
	SpaceOK   SpaceState = "ok"
	SpaceLow  SpaceState = "low"  // writes go on; see Stat.LowAt
	SpaceFull SpaceState = "full" // writes wait or are refused; see Stat.FullAt
)

const (
	largestLow   = 16 << 30    // a tenth of a large disk is no reason to worry
	fullMark     = MaxRequest  // with less, the next write may be the one that is refused
	warnInterval = time.Minute // room comes and goes: this often it is said at most,
	remindAfter  = 10 * time.Minute
)

// watermark notices when the room for writes becomes low, and says so in the log: when it is low, when it has
// halved since, when writes are refused, and when it is over.
type watermark struct {
	refused atomic.Bool // a write was refused since the last look

	mu     sync.Mutex
	state  SpaceState
	low    voice
	full   voice
	warned int64 // the room at the last warning that it is low
}

// voice is one message that is not repeated too often.
type voice struct {
	at   time.Time // when it was said last
	said bool      // and not taken back since
}

// speak reports whether the message is due: it is news, or worse, or was said long ago.
func (v *voice) speak(now time.Time, worse bool) bool {
	since := now.Sub(v.at)
	if !v.at.IsZero() && (since < warnInterval || v.said && !worse && since < remindAfter) {
		return false
	}
	v.at, v.said = now, true
	return true
}

// over reports whether the message has to be taken back.
func (v *voice) over() bool {
	said := v.said
	v.said = false
	return said
}

// lowMark is the room in bytes below which it is low.
func (s *Store) lowMark() int64 {
	limit := s.total
	if n := s.maxSize.Load(); n > 0 {
		limit = min(limit, n)
	}
	return min(max(limit/10, 2*fullMark), largestLow)
}

// stateOf gives the state for the room that writes have beside what settling may need. One that was is left when
// there is a quarter more than what it begins with, so that it does not come and go with every write.
func stateOf(was SpaceState, room, low int64) SpaceState {
	below := func(mark int64, in bool) bool {
		if in {
			mark += mark / 4
		}
		return room < mark
	}
	switch {
	case below(fullMark, was == SpaceFull):
		return SpaceFull
	case below(low, was == SpaceLow || was == SpaceFull):
		return SpaceLow
	}
	return SpaceOK
}

// statSpace fills in what is known of the room for writes.
func (s *Store) statSpace(st *Stat) error {
	room, err := s.room()
	if err != nil {
		return err
	}
	st.Free, st.Owed = max(room, 0), s.debt.Load()
	st.Reserve, st.MaxSize = s.reserve.Load(), s.maxSize.Load()
	st.LowAt, st.FullAt = s.lowMark(), fullMark
	s.mark.mu.Lock()
	was := s.mark.state
	s.mark.mu.Unlock()
	st.State = stateOf(was, room-st.Owed, st.LowAt)
	return nil
}

// watchRoom takes note of the room that writes have, and warns. The settler calls it at each tick.
func (s *Store) watchRoom(room int64, now time.Time) {
	m := &s.mark
	m.mu.Lock()
	defer m.mu.Unlock()
	low := s.lowMark()
	left := room - s.debt.Load()
	m.state = stateOf(m.state, left, low)
	if m.refused.Swap(false) && m.state == SpaceLow {
		m.state = SpaceFull // a large request was refused: smaller ones may go on
	}
	attrs := []any{
		slog.Int64("free", max(left, 0)), slog.Int64("reserve", s.reserve.Load()), slog.Int64("low_at", low),
		slog.Int64("full_at", fullMark), slog.Int64("max_size", s.maxSize.Load()),
	}
	switch {
	case m.state == SpaceFull:
		if m.full.speak(now, false) {
			s.log.Error("the store is full: writes wait for settling or are refused, all else goes on", attrs...)
		}
	case m.full.over():
		s.log.Info("the store takes writes again", attrs...)
	}
	switch {
	case m.state == SpaceLow:
		if m.low.speak(now, left <= m.warned/2) {
			m.warned = left
			s.log.Warn("the store is running out of room", attrs...)
		}
	case m.state == SpaceOK && m.low.over():
		s.log.Info("the store has room again", attrs...)
	}
}
