package objstore

import (
	"errors"
	"sync/atomic"
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

// settleAttempts records how the settling of a volume goes. The settler counts; writers and waiters
// of the volume read. The zero value is ready.
type settleAttempts struct {
	begun   atomic.Uint64                 // settlings that have begun
	failed  atomic.Int64                  // those in a row that have failed
	last    atomic.Pointer[settleFailure] // the last one that failed; nil: none
	wanted  atomic.Int64                  // callers that wait for the settling of the volume
	changes atomic.Int64                  // counts events that may let a failing settling succeed
	next    retry                         // only the settler's goroutine uses it
}

// settleFailure is a settling that has failed.
type settleFailure struct {
	number uint64 // of the attempt
	err    error
}

// settleTry is the state that a try began with.
type settleTry struct {
	repairGen int64 // of the store
	changes   int64 // of the volume
}

// stateFor returns the state that the outcome of a try may depend on. It is called before the try
// looks at that state.
func (t *settler) stateFor(v settleable) settleTry {
	return settleTry{t.deps.repairs(), v.settleAttempts().changes.Load()}
}

// retryDue reports whether the volume may settle now: its last try has not failed, or was long
// enough ago, or a caller waits for it, or the cause of the failure may be gone.
func (t *settler) retryDue(v settleable) bool {
	a := v.settleAttempts()
	r := &a.next
	return a.failed.Load() == 0 || a.wanted.Load() > 0 || !time.Now().Before(r.at) ||
		r.try != t.stateFor(v) || r.full && t.deps.space.roomSeen.Load()-r.room >= r.need
}

// settleFailed records that a try has failed, wakes its waiters, and sets the time of the next one.
func (t *settler) settleFailed(v settleable, try settleTry, err error) {
	a, space := v.settleAttempts(), t.deps.space
	fails := a.failed.Add(1)
	wait, longest := firstRetry<<(2*min(fails-1, 8)), longestRetry
	r := &a.next
	r.try, r.full = try, false
	if errors.Is(err, ErrNoSpace) {
		longest = fullRetry
		if room, rerr := space.room(); rerr == nil {
			space.roomSeen.Store(room)
			r.full, r.room, r.need = true, room, max(min(v.backlog().reserved, retryRoom), disk.BlockSize)
		}
	}
	wait = min(wait, longest)
	r.at = time.Now().Add(wait)
	a.last.Store(&settleFailure{a.begun.Load(), err})
	t.countStuck()
	v.wakeWriters()
	space.freed.fire()
	t.deps.log.Error("settling failed, and is retried", "error", err, "in", wait)
}

// countStuck adds the tails of volumes whose settling keeps failing to the account of what is
// stuck: no write waits for those.
func (t *settler) countStuck() {
	for _, v := range t.deps.volumes() {
		if v.settleAttempts().failed.Load() >= settleTries {
			v.setStuck(true)
		}
	}
}
