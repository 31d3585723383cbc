package daemon

import (
	"context"
	"net/http"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// serveReindex starts to rebuild the index, and with Wait answers with events until that is done.
// The rebuild continues if the client disconnects. Without a daemon it would end with the process,
// so the command always waits; the next opening continues an interrupted rebuild.
func (q *storeRequests) serveReindex(w http.ResponseWriter, r *http.Request) {
	var req protocol.Reindex
	if err := server.Decode(w, r, &req); err != nil {
		server.Refuse(w, err)
		return
	}
	wait := req.Wait || !q.stays
	if wait {
		leave, err := q.waits.enter()
		if err != nil {
			server.Refuse(w, err)
			return
		}
		defer leave()
	}
	st, err := q.store.Stat()
	if err == nil {
		err = q.store.Reindex()
	}
	if err != nil {
		server.Refuse(w, err)
		return
	}
	q.log.Info("rebuilding the index", "segments", st.Segments)
	began, events := time.Now(), q.events(w)
	done := protocol.Reindexed{Segments: st.Segments}
	if wait {
		if err := q.awaitReindex(r.Context(), events); err != nil {
			e, _ := protocol.NewError(err)
			events.send(protocol.ReindexEvent{Error: e})
			return
		}
		done.Complete, done.Seconds = true, time.Since(began).Seconds()
	}
	events.send(protocol.ReindexEvent{Done: &done})
}

func (q *storeRequests) awaitReindex(ctx context.Context, events events) error {
	return q.store.WaitReindex(ctx, func(i objstore.ReindexInfo) { events.send(protocol.ReindexEvent{Progress: &i}) })
}
