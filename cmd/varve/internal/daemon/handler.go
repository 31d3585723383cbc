package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// none is the body of a request or answer that has none.
type none struct{}

// requestTimeout bounds every request but the waiting for a snapshot, which takes what it takes.
const requestTimeout = 2 * time.Minute

// Handler answers the protocol.
func (d *Daemon) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/ping", handle(func(context.Context, *http.Request, none) (protocol.Ping, error) {
		return d.ping(), nil
	}))
	mux.Handle("GET /v1/stat", handle(d.serveStat))
	mux.Handle("PUT /v1/max-size", handle(d.serveMaxSize))
	mux.Handle("PUT /v1/identity", handle(d.serveIdentity))
	mux.Handle("GET /v1/volumes", handle(d.serveVolumes))
	mux.Handle("POST /v1/volumes", handle(d.serveCreateVolume))
	mux.Handle("GET /v1/volumes/{name}", handle(d.serveVolume))
	mux.Handle("PATCH /v1/volumes/{name}", handle(d.serveSetVolume))
	mux.Handle("DELETE /v1/volumes/{name}", handle(d.serveDeleteVolume))
	mux.Handle("POST /v1/volumes/{name}/repair", handle(d.serveRepairVolume))
	mux.HandleFunc("POST /v1/check", d.serveCheck)
	mux.Handle("GET /v1/snapshots", handle(d.serveSnapshots))
	mux.Handle("POST /v1/snapshots", handle(d.serveCreateSnapshot))
	mux.Handle("DELETE /v1/snapshots/{volume}/{name}", handle(d.serveDeleteSnapshot))
	mux.Handle("GET /v1/attachments", handle(d.serveAttachments))
	mux.Handle("POST /v1/attach", handle(d.serveAttach))
	mux.Handle("POST /v1/detach", handle(d.serveDetach))
	mux.Handle("POST /v1/auto-detach", handle(d.serveAutoDetach))
	mux.Handle("POST /v1/mount", handle(d.serveMount))
	mux.Handle("POST /v1/umount", handle(d.serveUnmount))
	mux.HandleFunc("POST /v1/stop", d.serveStop)
	mux.Handle("/", handle(func(_ context.Context, r *http.Request, _ none) (none, error) {
		return none{}, fmt.Errorf("%w request %s %s", objstore.ErrInvalid, r.Method, r.URL.Path)
	}))
	return d.guard(mux)
}

// guard checks the protocol's version, and keeps a panic from taking the devices down with it.
func (d *Daemon) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(protocol.Header, strconv.Itoa(protocol.Version))
		defer func() {
			if p := recover(); p != nil {
				d.log.Error("panic while answering a request", "request", r.Method+" "+r.URL.Path,
					"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				refuse(w, errors.New("the daemon hit a bug while it answered; its log has the stack"))
			}
		}()
		if v := r.Header.Get(protocol.Header); v != strconv.Itoa(protocol.Version) {
			refuse(w, fmt.Errorf("%w: client speaks protocol %q, this daemon %d; use the same version of varve",
				objstore.ErrInvalid, v, protocol.Version))
			return
		}
		next.ServeHTTP(w, r)
		d.log.Debug("request", "method", r.Method, "path", r.URL.Path)
	})
}

// handle decodes the request, calls f and encodes what it gives.
func handle[Req, Ans any](f func(context.Context, *http.Request, Req) (Ans, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req Req
		if err := decode(w, r, &req); err != nil {
			refuse(w, err)
			return
		}
		ctx := r.Context()
		if c, ok := any(req).(protocol.CreateSnapshot); !ok || !c.Wait {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, requestTimeout)
			defer cancel()
		}
		ans, err := f(ctx, r, req)
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, http.StatusOK, ans)
	})
}

func decode(w http.ResponseWriter, r *http.Request, req any) error {
	if _, ok := req.(*none); ok {
		return nil
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, protocol.MaxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(req); err != nil {
		return fmt.Errorf("%w request: %w", objstore.ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w request: more than one JSON value", objstore.ErrInvalid)
	}
	c, ok := req.(interface{ Check() error })
	if !ok {
		return nil
	}
	if err := c.Check(); err != nil {
		return fmt.Errorf("%w request: %w", objstore.ErrInvalid, err)
	}
	return nil
}

func refuse(w http.ResponseWriter, err error) {
	e, status := protocol.NewError(err)
	answer(w, status, e)
}

func answer(w http.ResponseWriter, status int, body any) {
	if _, ok := body.(none); ok {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	data, err := json.Marshal(body)
	if err != nil { // only a bug makes our own types unmarshalable
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the client is gone: nobody to tell
}
