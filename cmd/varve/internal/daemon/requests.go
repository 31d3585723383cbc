package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// storeRequests answers the requests that concern the store alone, and no device or mount: checks
// and repairs, collections, rebuilding the index, diffs, histories, and what a deletion would free.
// Most of them take long and are answered with events.
//
// A request ends with its client, but for collections that no client waits for (collections), and
// the rebuilding of the index, which belongs to the engine.
type storeRequests struct {
	store         Store
	checks        *checks
	collections   collections
	stays         bool // the process outlives the request: it is a daemon
	waits         waitLimit
	answerTimeout time.Duration // for a client to read an event
	log           *slog.Logger
}

func (q *storeRequests) register(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/check", q.serveCheck)
	mux.HandleFunc("POST /v1/reindex", q.serveReindex)
	mux.HandleFunc("POST /v1/collect", q.serveCollect)
	mux.HandleFunc("POST /v1/diff", q.serveDiff)
	mux.Handle("GET /v1/volumes/{name}/history", server.Handle(q.serveHistory))
	mux.Handle("POST /v1/volumes/{name}/repair", server.Handle(q.serveRepairVolume))
	mux.Handle("POST /v1/would-free", waiting(q.waits, q.serveWouldFree))
}

func (q *storeRequests) serveHistory(_ context.Context, r *http.Request, _ server.None) ([]objstore.SnapshotInfo, error) {
	name, err := volumeName(r)
	if err != nil {
		return nil, err
	}
	return q.store.History(name)
}

func (q *storeRequests) serveRepairVolume(ctx context.Context, r *http.Request, p protocol.Repair) (objstore.Repair, error) {
	name, err := volumeName(r)
	if err != nil {
		return objstore.Repair{}, err
	}
	return q.store.RepairVolume(ctx, name, p.AcceptLoss)
}

// events begins an answer of events, each of which is sent at once.
func (q *storeRequests) events(w http.ResponseWriter) events { return newEvents(w, q.answerTimeout) }

// maxWaits is the number of requests that may wait for settling, or for a reindex, at once. These
// and a client's check are the only requests without a time limit.
const maxWaits = 32

// waitLimit counts the requests that wait for settling; full: no more may.
type waitLimit chan struct{}

// enter counts the caller as a waiting request until leave is called, or returns
// protocol.ErrOverLimit.
func (l waitLimit) enter() (leave func(), err error) {
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	default:
		return nil, fmt.Errorf("%w: %d requests already wait for volumes and snapshots to settle; try again", protocol.ErrOverLimit, maxWaits)
	}
}

// waiting is server.Handle for requests that may wait for settling, without a time limit. Above
// maxWaits such a request is refused before anything is done.
func waiting[Req interface{ Waits() bool }, Ans any](l waitLimit, serve func(context.Context, *http.Request, Req) (Ans, error)) http.Handler {
	return server.Handle(func(ctx context.Context, r *http.Request, req Req) (Ans, error) {
		if req.Waits() {
			leave, err := l.enter()
			if err != nil {
				var none Ans
				return none, err
			}
			defer leave()
		}
		return serve(ctx, r, req)
	})
}
