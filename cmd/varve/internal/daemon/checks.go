package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

const (
	// scrubInterval is how often the daemon asks whether a scheduled check is due.
	scrubInterval = time.Minute
	// mostLogged bounds how many damages of one check are logged.
	mostLogged = 20
)

// checkedStore is what checks need of the engine.
type checkedStore interface {
	CheckStore(ctx context.Context, o objstore.CheckOptions) (*objstore.CheckReport, error)
	ScrubDue() bool
	ScrubOptions() objstore.CheckOptions
}

// checks are the checks of a store: at most one that a client asked for, and the scheduled ones,
// which are interrupted by it.
type checks struct {
	store     checkedStore
	ofClient  sync.Mutex // held during a client's check
	scheduled background // held during a client's check, and a handover
	log       *slog.Logger
}

// begin begins a client's check, which runs until end is called. It interrupts a scheduled check,
// and waits until that has ended. protocol.ErrBusy if another client's check is running.
func (c *checks) begin() (end func(), err error) {
	if !c.ofClient.TryLock() {
		return nil, fmt.Errorf("check: %w: another check is under way", protocol.ErrBusy)
	}
	c.scheduled.hold()
	return func() {
		c.scheduled.release()
		c.ofClient.Unlock()
	}, nil
}

// watch runs scheduled checks until end is called, which interrupts the running one and waits for
// its end. That check continues when the store opens again.
func (c *checks) watch(interval time.Duration) (end func()) {
	return repeat(interval, func(ctx context.Context) {
		if c.store.ScrubDue() {
			c.scheduled.run(ctx, c.check)
		}
	})
}

// check runs a scheduled check, or continues it.
func (c *checks) check(ctx context.Context) {
	o := c.store.ScrubOptions()
	c.log.Info("scheduled check begins, or continues", "rate", o.Rate)
	report, err := c.store.CheckStore(ctx, o)
	switch {
	case err == nil:
		c.logReport(report)
	case errors.Is(err, context.Canceled):
		c.log.Info("scheduled check was interrupted, and continues later")
	default:
		c.log.Warn("scheduled check ended early, and is retried", "error", err)
	}
}

// logReport logs the result of a check, and the damage that was not repaired.
func (c *checks) logReport(r *objstore.CheckReport) {
	c.log.Info("store checked", "segments", r.Segments-r.Skipped, "skipped_segments", r.Skipped, "objects", r.Objects, "bytes", r.Bytes,
		"seconds", r.Seconds, "damaged", r.Damaged())
	logged := 0
	for _, damage := range r.Damage {
		if damage.Repaired {
			continue
		}
		if logged++; logged > mostLogged {
			c.log.Error("more damage was found; varve check lists all", "damaged", r.Damaged())
			return
		}
		c.log.Error("damage was found", "file", damage.File, "offset", damage.Offset, "object", damage.Object, "error", damage.Error,
			"affects", len(damage.Affects))
	}
}
