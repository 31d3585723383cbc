package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// None is the body of a request or answer that has none.
type None struct{}

// RequestTimeout bounds every request, except those that wait for settling or are answered with
// events.
const RequestTimeout = 2 * time.Minute

// Guard checks the protocol version of requests, and keeps a panic in one from ending the daemon.
func Guard(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(protocol.Header, strconv.Itoa(protocol.Version))
		defer func() {
			if p := recover(); p != nil {
				log.Error("panic while answering a request", "request", r.Method+" "+r.URL.Path,
					"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				Refuse(w, errors.New("internal error in the daemon; its log has the stack"))
			}
		}()
		if v := r.Header.Get(protocol.Header); v != strconv.Itoa(protocol.Version) {
			Refuse(w, fmt.Errorf("%w: client speaks protocol %q, this daemon %d; use the same version of varve",
				objstore.ErrInvalid, v, protocol.Version))
			return
		}
		next.ServeHTTP(w, r)
		log.Debug("request", "method", r.Method, "path", r.URL.Path)
	})
}

// Handle decodes the request, calls f and encodes what f returns.
func Handle[Req, Ans any](f func(context.Context, *http.Request, Req) (Ans, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req Req
		if err := Decode(w, r, &req); err != nil {
			Refuse(w, err)
			return
		}
		ctx := r.Context()
		if w, ok := any(req).(interface{ Waits() bool }); !ok || !w.Waits() {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, RequestTimeout)
			defer cancel()
		}
		ans, err := f(ctx, r, req)
		if err != nil {
			Refuse(w, err)
			return
		}
		Answer(w, http.StatusOK, ans)
	})
}

// Decode reads the body of a request, which is one JSON value without unknown fields, and checks
// it.
func Decode(w http.ResponseWriter, r *http.Request, req any) error {
	if _, ok := req.(*None); ok {
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

// Refuse answers with an error.
func Refuse(w http.ResponseWriter, err error) {
	e, status := protocol.NewError(err)
	Answer(w, status, e)
}

// Answer answers with a body, or without one if that is None.
func Answer(w http.ResponseWriter, status int, body any) {
	if _, ok := body.(None); ok {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	data, err := json.Marshal(body)
	if err != nil { // our own types can always be marshalled
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // an error means that the client is gone
}
