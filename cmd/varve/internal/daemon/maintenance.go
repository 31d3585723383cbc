package daemon

import (
	"context"
	"net/http"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
)

func (d *Daemon) serveMaintenance(ctx context.Context, r *http.Request, m protocol.Maintenance) (protocol.Stat, error) {
	if err := d.store.SetMaintenance(m.Apply); err != nil {
		return protocol.Stat{}, err
	}
	st, err := d.serveStat(ctx, r, server.None{})
	d.log.Info("maintenance set", "scrub_every_seconds", st.Scrub.Every, "scrub_rate", st.Scrub.Rate, "gc_rate", st.Collect.Rate)
	return st, err
}
