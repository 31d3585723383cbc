package daemon

import (
	"context"
	"net/http"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// progressEvery is how often a client is told the progress of its request.
const progressEvery = 200 * time.Millisecond

// serveCheck answers with events, one per line, while the check runs. The check ends when the
// client disconnects. A running scheduled check is interrupted, and continues afterwards.
func (d *Daemon) serveCheck(w http.ResponseWriter, r *http.Request) {
	var req protocol.CheckStore
	if r.ContentLength != 0 { // a client of an earlier version sends no body
		if err := server.Decode(w, r, &req); err != nil {
			server.Refuse(w, err)
			return
		}
	}
	end, err := d.checks.begin()
	if err != nil {
		server.Refuse(w, err)
		return
	}
	defer end()
	o := req.Options()
	events := d.events(w)
	var last time.Time
	o.Progress = func(p objstore.CheckProgress) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			events.send(protocol.CheckEvent{Progress: &p})
		}
	}
	report, err := d.store.CheckStore(r.Context(), o)
	if err != nil {
		d.log.Warn("check ended early", "error", err)
		e, _ := protocol.NewError(err)
		events.send(protocol.CheckEvent{Error: e})
		return
	}
	d.checks.logReport(report)
	events.send(protocol.CheckEvent{Report: report})
}

func (d *Daemon) serveRepairVolume(ctx context.Context, r *http.Request, q protocol.Repair) (objstore.Repair, error) {
	name, err := volumeName(r)
	if err != nil {
		return objstore.Repair{}, err
	}
	return d.store.RepairVolume(ctx, name, q.AcceptLoss)
}
