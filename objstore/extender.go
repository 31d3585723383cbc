package objstore

import (
	"context"
	"fmt"

	"varve/objstore/internal/journal"
)

// extender extends journals ahead of the requests that append to them: it allocates and maps the
// next window (1 MiB) when the last one is half used, so that a request seldom finds the journal
// without room, and prefaults pages, so that the append seldom faults. A request that finds no room
// gets ErrBusy, and Wait extends the journal itself.
type extender struct{ asked chan *volume }

// extendersQueue is how many volumes may wait for the extender. A volume that finds the queue full
// asks again at its next record.
const extendersQueue = 64

func newExtender() *extender { return &extender{make(chan *volume, extendersQueue)} }

// ask queues the journal of a volume's active layer for the extender, and reports whether the queue
// had room. It never blocks.
func (x *extender) ask(v *volume) bool {
	select {
	case x.asked <- v:
		return true
	default:
		return false
	}
}

// run extends journals until ctx ends.
func (x *extender) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-x.asked:
			_ = v.extendJournal(journal.Ahead) // a request that needs the window tries again in Wait, and gets the error
		}
	}
}

// extendJournal extends the journal of the active layer by room for n more records. It blocks.
func (v *volume) extendJournal(n int) error {
	v.mu.Lock()
	if !v.writable {
		v.mu.Unlock()
		return nil
	}
	j := v.active().journal
	n += v.inflight
	v.mu.Unlock()
	err := j.Extend(&v.mu, n)
	j.PrefaultAhead(&v.mu)
	v.mu.Lock()
	if v.writable && v.active().journal == j {
		v.extending = false // also after an error: the next record asks again
	}
	v.mu.Unlock()
	if err != nil {
		return fmt.Errorf("extend journal: %w", v.s.spaceError(err))
	}
	v.room.fire()
	return nil
}
