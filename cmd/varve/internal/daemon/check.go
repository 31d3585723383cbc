package daemon

import (
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
func (q *storeRequests) serveCheck(w http.ResponseWriter, r *http.Request) {
	var req protocol.CheckStore
	if r.ContentLength != 0 { // a client of an earlier version sends no body
		if err := server.Decode(w, r, &req); err != nil {
			server.Refuse(w, err)
			return
		}
	}
	end, err := q.checks.begin()
	if err != nil {
		server.Refuse(w, err)
		return
	}
	defer end()
	o := req.Options()
	events := q.events(w)
	var last time.Time
	o.Progress = func(p objstore.CheckProgress) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			events.send(protocol.CheckEvent{Progress: &p})
		}
	}
	report, err := q.store.CheckStore(r.Context(), o)
	if err != nil {
		q.log.Warn("check ended early", "error", err)
		e, _ := protocol.NewError(err)
		events.send(protocol.CheckEvent{Error: e})
		return
	}
	q.checks.logReport(report)
	events.send(protocol.CheckEvent{Report: report})
}
