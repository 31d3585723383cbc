package daemon

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// progressEvery is how often a client hears how far its request is.
const progressEvery = 200 * time.Millisecond

// serveCheck answers with events, one a line, as long as the check takes. The check ends when the
// client goes away. A scheduled check makes way for it, and goes on afterwards.
func (d *Daemon) serveCheck(w http.ResponseWriter, r *http.Request) {
	var req protocol.CheckStore
	if r.ContentLength != 0 { // a client of an earlier version sends no body
		if err := server.Decode(w, r, &req); err != nil {
			server.Refuse(w, err)
			return
		}
	}
	if !d.checking.TryLock() {
		server.Refuse(w, fmt.Errorf("check: %w: another check is under way", protocol.ErrBusy))
		return
	}
	defer d.checking.Unlock()
	d.scrubs.hold()
	defer d.scrubs.release()
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
	d.logChecked(report)
	events.send(protocol.CheckEvent{Report: report})
}

// logChecked logs the result of a check, and each damage that was not repaired.
func (d *Daemon) logChecked(r *objstore.CheckReport) {
	d.log.Info("store checked", "segments", r.Segments-r.Skipped, "skipped_segments", r.Skipped, "objects", r.Objects, "bytes", r.Bytes,
		"seconds", r.Seconds, "damaged", r.Damaged())
	logged := 0
	for _, damage := range r.Damage {
		if damage.Repaired {
			continue
		}
		if logged++; logged > mostLogged {
			d.log.Error("more damage was found; varve check lists all", "damaged", r.Damaged())
			return
		}
		d.log.Error("damage was found", "file", damage.File, "offset", damage.Offset, "object", damage.Object, "error", damage.Error,
			"affects", len(damage.Affects))
	}
}

// mostLogged bounds how many damages of one check are logged.
const mostLogged = 20

func (d *Daemon) serveRepairVolume(ctx context.Context, r *http.Request, q protocol.Repair) (objstore.Repair, error) {
	name, err := volumeName(r)
	if err != nil {
		return objstore.Repair{}, err
	}
	return d.store.RepairVolume(ctx, name, q.AcceptLoss)
}
