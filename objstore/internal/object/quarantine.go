package object

import (
	"sync/atomic"

	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/segment"
)

// maxSuspects bounds how many suspect locations are remembered. Beyond that the disk is lost
// anyway; each reader still finds damage for itself.
const maxSuspects = 1 << 20

// Quarantine records damaged locations; see the package comment. The zero value is ready.
type Quarantine struct {
	any        atomic.Bool  // there has been a suspect: without one a look-up takes no lock
	generation atomic.Int64 // of repairs

	mu       lockorder.Mutex[lockorder.Memory]
	suspects map[segment.Location]bool // true: quarantined
}

// Generation returns the repair generation.
func (q *Quarantine) Generation() int64 { return q.generation.Load() }

// Repaired begins a new repair generation: something that was lost may have come back.
func (q *Quarantine) Repaired() { q.generation.Add(1) }

// Quarantined reports whether a location certainly has the wrong bytes.
func (q *Quarantine) Quarantined(l segment.Location) bool { return q.any.Load() && q.isQuarantined(l) }

func (q *Quarantine) isQuarantined(l segment.Location) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.suspects[l]
}

// Suspect reports whether a location is suspect, quarantined or not.
func (q *Quarantine) Suspect(l segment.Location) bool { return q.any.Load() && q.isSuspect(l) }

func (q *Quarantine) isSuspect(l segment.Location) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.suspects[l]
	return ok
}

// add makes a location suspect, or quarantines it. It reports whether the location was not suspect
// before.
func (q *Quarantine) add(l segment.Location, quarantine bool) (news bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	was, known := q.suspects[l]
	if known || len(q.suspects) < maxSuspects {
		if q.suspects == nil {
			q.suspects = map[segment.Location]bool{}
		}
		q.suspects[l] = was || quarantine
		q.any.Store(true)
	}
	return !known
}

// clear removes a location. If it was quarantined, its object has come back.
func (q *Quarantine) clear(l segment.Location) {
	if !q.any.Load() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.suspects[l] {
		q.Repaired()
	}
	delete(q.suspects, l)
}

// forget drops the record of a location that has no object any more.
func (q *Quarantine) forget(l segment.Location) {
	if !q.any.Load() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.suspects, l)
}
