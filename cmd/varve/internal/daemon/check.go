package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// progressEvery is how often a client hears how far a check is.
const progressEvery = 200 * time.Millisecond

// serveCheck answers with events, one a line, as long as the check takes. It ends when the client goes away.
func (d *Daemon) serveCheck(w http.ResponseWriter, r *http.Request) {
	if !d.checking.TryLock() {
		server.Refuse(w, fmt.Errorf("check: %w: another check is under way", protocol.ErrBusy))
		return
	}
	defer d.checking.Unlock()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	enc, conn := json.NewEncoder(w), http.NewResponseController(w)
	send := func(e protocol.CheckEvent) {
		// Errors: the client is gone, and the request's context ends; or it is this process, and has no deadline.
		_ = conn.SetWriteDeadline(time.Now().Add(d.answerTimeout))
		_ = enc.Encode(e)
		_ = conn.Flush()
	}
	var last time.Time
	report, err := d.store.Check(r.Context(), func(p objstore.CheckProgress) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			send(protocol.CheckEvent{Progress: &p})
		}
	})
	if err != nil {
		d.log.Warn("check ended early", "error", err)
		e, _ := protocol.NewError(err)
		send(protocol.CheckEvent{Error: e})
		return
	}
	d.log.Info("store checked", "objects", report.Objects, "bytes", report.Bytes, "damaged", report.Damaged())
	send(protocol.CheckEvent{Report: report})
}

func (d *Daemon) serveRepairVolume(ctx context.Context, r *http.Request, q protocol.Repair) (objstore.Repair, error) {
	name, err := volumeName(r)
	if err != nil {
		return objstore.Repair{}, err
	}
	return d.store.RepairVolume(ctx, name, q.AcceptLoss)
}
