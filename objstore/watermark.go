package objstore

import (
	"log/slog"
	"sync/atomic"
	"time"

	"varve/objstore/internal/lockorder"
)

// SpaceState is how much room writes have left.
type SpaceState string

// The states of Stat.State.
const (
	SpaceOK   SpaceState = "ok"
	SpaceLow  SpaceState = "low"  // writes continue; see Stat.LowAt
	SpaceFull SpaceState = "full" // writes wait or are refused; see Stat.FullAt
)

const (
	largestLow   = 16 << 30    // a tenth of a large disk is no reason to worry
	fullMark     = MaxRequest  // with less, the next write may be the one that is refused
	warnInterval = time.Minute // room comes and goes: this often it is said at most,
	remindAfter  = 10 * time.Minute
)

// watermark logs when the room for writes becomes low, when it has halved since, when writes are
// refused, and when that is over.
type watermark struct {
	refused atomic.Bool // a write was refused since the last look

	mu     lockorder.Mutex[lockorder.Memory]
	state  SpaceState
	low    rateLimit
	full   rateLimit
	warned int64 // the room at the last warning that it is low
}

// rateLimit keeps one message from being logged too often.
type rateLimit struct {
	at     time.Time // when it was logged last
	logged bool      // and not taken back since
}

// due reports whether the message is to be logged, and takes it for logged: it is news, or worse,
// or was logged long ago.
func (l *rateLimit) due(now time.Time, worse bool) bool {
	since := now.Sub(l.at)
	if !l.at.IsZero() && (since < warnInterval || l.logged && !worse && since < remindAfter) {
		return false
	}
	l.at, l.logged = now, true
	return true
}

// over reports whether the message has to be taken back.
func (l *rateLimit) over() bool {
	logged := l.logged
	l.logged = false
	return logged
}

// lowMark is the room in bytes below which it is low.
func (a *spaceAccount) lowMark() int64 {
	return min(max(a.limit(a.maxSize.Load())/10, 2*fullMark), largestLow)
}

// stateOf returns the state for the room that writes have beside what settling may need. One that
// was is left when there is a quarter more than what it begins with, so that it does not come and
// go with every write.
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

// short reports whether room was low or used up at the last look, or a request waits for it.
func (a *spaceAccount) short() bool {
	if a.lowSpace.Load() || a.waiting.Load() > 0 {
		return true
	}
	a.mark.mu.Lock()
	defer a.mark.mu.Unlock()
	return a.mark.state == SpaceLow || a.mark.state == SpaceFull
}

// stat fills in what is known of the room for writes. It blocks.
func (a *spaceAccount) stat(st *Stat) error {
	room, err := a.room()
	if err != nil {
		return err
	}
	st.Free, st.SettleReservation = max(room, 0), a.reserved.Load()
	st.Promised = a.promised.Load()
	st.Reserve, st.MaxSize = a.reserve.Load(), a.maxSize.Load()
	st.LowAt, st.FullAt = a.lowMark(), fullMark
	a.mark.mu.Lock()
	was := a.mark.state
	a.mark.mu.Unlock()
	st.State = stateOf(was, room-st.SettleReservation, st.LowAt)
	return nil
}

// watch takes note of the room that writes have, and warns.
func (a *spaceAccount) watch(room int64, now time.Time) {
	m := &a.mark
	m.mu.Lock()
	defer m.mu.Unlock()
	low := a.lowMark()
	left := room - a.reserved.Load()
	m.state = stateOf(m.state, left, low)
	if m.refused.Swap(false) && m.state == SpaceLow {
		m.state = SpaceFull // a large request was refused: smaller ones may continue
	}
	attrs := []any{
		slog.Int64("free", max(left, 0)), slog.Int64("reserve", a.reserve.Load()), slog.Int64("low_at", low),
		slog.Int64("full_at", fullMark), slog.Int64("max_size", a.maxSize.Load()),
	}
	switch {
	case m.state == SpaceFull:
		if m.full.due(now, false) {
			a.deps.log.Error("the store is full: writes wait for settling or are refused; everything else continues", attrs...)
		}
	case m.full.over():
		a.deps.log.Info("the store accepts writes again", attrs...)
	}
	switch {
	case m.state == SpaceLow:
		if m.low.due(now, left <= m.warned/2) {
			m.warned = left
			a.deps.log.Warn("the store is running out of space", attrs...)
		}
	case m.state == SpaceOK && m.low.over():
		a.deps.log.Info("the store has space again", attrs...)
	}
}
