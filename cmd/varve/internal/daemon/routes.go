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
	mux.Handle("POST /v1/prune", waiting(d.requests.waits, d.servePrune))
	mux.Handle("DELETE /v1/volumes/{name}", server.Handle(d.serveDeleteVolume))
	mux.Handle("POST /v1/volumes/{name}/clone", waiting(d.requests.waits, d.serveCloneVolume))
	mux.Handle("POST /v1/volumes/{name}/resize", waiting(d.requests.waits, d.serveResizeVolume))
	mux.Handle("POST /v1/volumes/{name}/rollback", waiting(d.requests.waits, d.serveRollbackVolume))
	mux.Handle("POST /v1/volumes/{name}/rename", server.Handle(d.serveRenameVolume))
	mux.Handle("GET /v1/snapshots", server.Handle(d.serveSnapshots))
	mux.Handle("POST /v1/snapshots", waiting(d.requests.waits, d.serveCreateSnapshot))
	mux.Handle("DELETE /v1/snapshots/{volume}/{name}", server.Handle(d.serveDeleteSnapshot))
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
	d.requests.register(mux)
	mux.Handle("/", server.Handle(func(_ context.Context, r *http.Request, _ server.None) (server.None, error) {
		return server.None{}, fmt.Errorf("%w request %s %s", objstore.ErrInvalid, r.Method, r.URL.Path)
	}))
	return server.Guard(mux, d.log)
}

// NewServer returns a server for the daemon's socket.
func (d *Daemon) NewServer() *http.Server {
	return server.New(d.Handler(), server.Options{Logger: d.log, AnswerTimeout: d.requests.answerTimeout, Handover: d.serveHandover})
}
