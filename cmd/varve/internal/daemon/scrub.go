package daemon

import (
	"context"
	"errors"
	"net/http"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
)

// scrubInterval is how often the daemon asks whether a scheduled check is due.
const scrubInterval = time.Minute

func (d *Daemon) serveMaintenance(ctx context.Context, r *http.Request, m protocol.Maintenance) (protocol.Stat, error) {
	if err := d.store.SetMaintenance(m.Apply); err != nil {
		return protocol.Stat{}, err
	}
	st, err := d.serveStat(ctx, r, server.None{})
	d.log.Info("maintenance set", "scrub_every_seconds", st.Scrub.Every, "scrub_rate", st.Scrub.Rate)
	return st, err
}

// watchScrub runs scheduled checks until the function that it returns is called, which waits for
// the one that runs. That one goes on when the store opens again.
func (d *Daemon) watchScrub(every time.Duration) (end func()) { return repeat(every, d.scrub) }

// scrub runs a scheduled check if one is due.
func (d *Daemon) scrub(ctx context.Context) {
	if !d.store.ScrubDue() {
		return
	}
	d.scrubs.run(ctx, d.scheduledCheck)
}

func (d *Daemon) scheduledCheck(ctx context.Context) {
	o := d.store.ScrubOptions()
	d.log.Info("a scheduled check begins, or goes on", "rate", o.Rate)
	report, err := d.store.CheckStore(ctx, o)
	switch {
	case err == nil:
		d.logChecked(report)
	case errors.Is(err, context.Canceled):
		d.log.Info("the scheduled check makes way, and goes on later")
	default:
		d.log.Warn("the scheduled check ended early, and is tried again", "error", err)
	}
}
