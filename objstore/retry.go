package objstore

import (
	"errors"
	"time"

	"varve/objstore/internal/disk"
)

// A settling that fails is tried again, each volume by itself, so that one volume's trouble does
// not delay the others. Tries cost what they read and copy, so they become rare, unless something
// has happened that may let the next one succeed.

const (
	firstRetry   = 250 * time.Millisecond // after a failure, then four times as long each time,
	longestRetry = 5 * time.Minute        // and at most this long,
	fullRetry    = time.Minute            // or this long if it lacked room
	settleTries  = 3                      // failed settlings in a row, after which no write waits for the next one

	// retryRoom is how many bytes of new room are enough for another try, where settling may need
	// more.
	retryRoom = 1 << 20
)

// retry is when a volume's settling is tried again. Only the settler's goroutine uses it.
type retry struct {
	at   time.Time
	try  settleTry
	full bool  // the try lacked room
	room int64 // bytes of room at that time
	need int64 // bytes of further room that let it be tried again
}

// settleFailure is a settling that has failed.
type settleFailure struct {
	number uint64 // of the try, counted by the volume
	err    error
}

// settleTry is the state that a try began with.
type settleTry struct {
	repairGen int64 // of the store
	changes   int64 // of the volume
}

// stateFor returns the state that the outcome of a try may depend on. It is called before the try
// looks at that state.
func (t *settler) stateFor(v *volume) settleTry {
	return settleTry{t.s.objects.Quarantine.Generation(), v.changes.Load()}
}

// retryDue reports whether the volume may settle now: its last try has not failed, or was long
// enough ago, or a caller waits for it, or the cause of the failure may be gone.
func (t *settler) retryDue(v *volume) bool {
	r := &v.nextTry
	return v.settleFails.Load() == 0 || v.wanted.Load() > 0 || !time.Now().Before(r.at) ||
		r.try != t.stateFor(v) || r.full && t.s.space.roomSeen.Load()-r.room >= r.need
}

// settleFailed records that a try has failed, wakes those who wait for it, and sets the time of the
// next one.
func (t *settler) settleFailed(v *volume, try settleTry, err error) {
	s := t.s
	fails := v.settleFails.Add(1)
	wait, longest := firstRetry<<(2*min(fails-1, 8)), longestRetry
	r := &v.nextTry
	r.try, r.full = try, false
	if errors.Is(err, ErrNoSpace) {
		longest = fullRetry
		if room, rerr := s.space.room(); rerr == nil {
			v.mu.Lock()
			_, reserved := v.tailAndReservation()
			v.mu.Unlock()
			s.space.roomSeen.Store(room)
			r.full, r.room, r.need = true, room, max(min(reserved, retryRoom), disk.BlockSize)
		}
	}
	wait = min(wait, longest)
	r.at = time.Now().Add(wait)
	v.settleErr.Store(&settleFailure{v.settleTries.Load(), err})
	t.countStuck()
	v.room.fire()
	s.space.freed.fire()
	s.log.Error("settling failed; it is tried again", "error", err, "in", wait)
}

// mayHelp notes a change of the volume that may let its settling succeed.
func (v *volume) mayHelp() {
	v.changes.Add(1)
	v.s.settler.ask()
}

// tailAndReservation returns how many bytes the volume has not settled, and how many settling them
// may write.
// REQUIRES: v.mu is held.
func (v *volume) tailAndReservation() (tail, reserved int64) {
	for _, l := range v.layers {
		reserved += l.reservation.bytes
	}
	return v.tail, reserved
}

// countStuck adds the tails of volumes whose settling keeps failing to the account of what is
// stuck: no write waits for those.
func (t *settler) countStuck() {
	s := t.s
	for _, v := range s.catalog.all() {
		if v.settleFails.Load() < settleTries {
			continue
		}
		v.mu.Lock()
		v.unstick()
		if v.settleFails.Load() >= settleTries { // else the volume has settled just now
			v.stuckTail, v.stuckReserved = v.tailAndReservation()
			s.space.stuck(v.stuckTail, v.stuckReserved)
		}
		v.mu.Unlock()
	}
}

// unstick removes from the account what countStuck has added for the volume.
// REQUIRES: v.mu is held.
func (v *volume) unstick() {
	v.s.space.stuck(-v.stuckTail, -v.stuckReserved)
	v.stuckTail, v.stuckReserved = 0, 0
}
