package daemon

import (
	"context"
	"fmt"
	"net/http"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// Handler answers the protocol.
func (d *Daemon) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/ping", server.Handle(func(context.Context, *http.Request, server.None) (protocol.Ping, error) {
		return d.ping(), nil
	}))
	mux.Handle("GET /v1/stat", server.Handle(d.serveStat))
	mux.Handle("PUT /v1/max-size", server.Handle(d.serveMaxSize))
	mux.Handle("PATCH /v1/maintenance", server.Handle(d.serveMaintenance))
	mux.Handle("PUT /v1/identity", server.Handle(d.serveIdentity))
	mux.Handle("GET /v1/volumes", server.Handle(d.serveVolumes))
	mux.Handle("POST /v1/volumes", server.Handle(d.serveCreateVolume))
	mux.Handle("GET /v1/volumes/{name}", server.Handle(d.serveVolume))
	mux.Handle("PATCH /v1/volumes/{name}", server.Handle(d.serveSetVolume))
	mux.Handle("GET /v1/volumes/{name}/history", server.Handle(d.serveHistory))
	mux.Handle("POST /v1/prune", waiting(d, d.servePrune))
	mux.Handle("DELETE /v1/volumes/{name}", server.Handle(d.serveDeleteVolume))
	mux.Handle("POST /v1/volumes/{name}/repair", server.Handle(d.serveRepairVolume))
	mux.Handle("POST /v1/volumes/{name}/clone", waiting(d, d.serveCloneVolume))
	mux.Handle("POST /v1/volumes/{name}/resize", waiting(d, d.serveResizeVolume))
	mux.Handle("POST /v1/volumes/{name}/rollback", waiting(d, d.serveRollbackVolume))
	mux.Handle("POST /v1/volumes/{name}/rename", server.Handle(d.serveRenameVolume))
	mux.HandleFunc("POST /v1/check", d.serveCheck)
	mux.HandleFunc("POST /v1/reindex", d.serveReindex)
	mux.HandleFunc("POST /v1/collect", d.serveCollect)
	mux.HandleFunc("POST /v1/diff", d.serveDiff)
	mux.Handle("GET /v1/snapshots", server.Handle(d.serveSnapshots))
	mux.Handle("POST /v1/snapshots", waiting(d, d.serveCreateSnapshot))
	mux.Handle("DELETE /v1/snapshots/{volume}/{name}", server.Handle(d.serveDeleteSnapshot))
	mux.Handle("POST /v1/would-free", waiting(d, d.serveWouldFree))
	mux.Handle("POST /v1/snapshots/{volume}/{name}/rename", server.Handle(d.serveRenameSnapshot))
	mux.Handle("GET /v1/attachments", server.Handle(d.serveAttachments))
	mux.Handle("POST /v1/attach", server.Handle(d.serveAttach))
	mux.Handle("POST /v1/detach", server.Handle(d.serveDetach))
	mux.Handle("POST /v1/auto-detach", server.Handle(d.serveAutoDetach))
	mux.Handle("POST /v1/targets", server.Handle(d.serveAddTarget))
	mux.Handle("POST /v1/targets/recover", server.Handle(d.serveRecoverTarget))
	mux.Handle("POST /v1/mount", server.Handle(d.serveMount))
	mux.Handle("POST /v1/umount", server.Handle(d.serveUnmount))
	mux.HandleFunc("POST /v1/stop", d.serveStop)
	mux.Handle("/", server.Handle(func(_ context.Context, r *http.Request, _ server.None) (server.None, error) {
		return server.None{}, fmt.Errorf("%w request %s %s", objstore.ErrInvalid, r.Method, r.URL.Path)
	}))
	return server.Guard(mux, d.log)
}

// NewServer returns a server for the daemon's socket.
func (d *Daemon) NewServer() *http.Server {
	return server.New(d.Handler(), server.Options{Logger: d.log, AnswerTimeout: d.answerTimeout, Handover: d.serveHandover})
}

// waiting is server.Handle for requests that may wait for settling, without a time limit. Above
// maxWaits such a request is refused before anything is done.
func waiting[Req interface{ Waits() bool }, Ans any](d *Daemon, serve func(context.Context, *http.Request, Req) (Ans, error)) http.Handler {
	return server.Handle(func(ctx context.Context, r *http.Request, req Req) (Ans, error) {
		if req.Waits() {
			leave, err := d.wait()
			if err != nil {
				var none Ans
				return none, err
			}
			defer leave()
		}
		return serve(ctx, r, req)
	})
}

// maxWaits is the number of requests that may wait for settling, or for a reindex, at once. These
// and a client's check are the only requests without a time limit.
const maxWaits = 32

// wait counts the caller as a waiting request until leave is called, or returns
// protocol.ErrOverLimit.
func (d *Daemon) wait() (leave func(), err error) {
	select {
	case d.waits <- struct{}{}:
		return func() { <-d.waits }, nil
	default:
		return nil, fmt.Errorf("%w: %d requests already wait for volumes and snapshots to settle; try again",
			protocol.ErrOverLimit, maxWaits)
	}
}
