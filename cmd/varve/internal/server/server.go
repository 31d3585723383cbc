// Package server answers the protocol of a store on its socket.
//
// A daemon owns a store while it has the lock and the socket (Ownership). New makes the HTTP
// server. It asks the kernel for the client's user, and serves only root and the daemon's own user.
// It limits the number of connections, and the size and duration of requests and answers. It passes
// on the request of a successor, whose connection stops being HTTP. Guard and Handle make handlers
// of the daemon's functions.
package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/protocol"
)

// Limits on what a client may take, beside protocol.MaxBody.
const (
	// headerTimeout and readTimeout bound the reading of a request, without and with its body.
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	// AnswerTimeout bounds the time in which a client must read its answer.
	AnswerTimeout = 30 * time.Second
	// idleTimeout bounds the time that a connection may have no request.
	idleTimeout = time.Minute
	// maxHeader bounds the header of a request in bytes.
	maxHeader = 16 << 10
)

// Options of a server.
type Options struct {
	Logger        *slog.Logger
	AnswerTimeout time.Duration    // 0: AnswerTimeout
	Handover      http.HandlerFunc // answers protocol.HandoverPath, in all versions of the protocol
}

type peerKey struct{} // *unix.Ucred of the client

// New returns a server that passes requests from root and the daemon's own user to next.
func New(next http.Handler, o Options) *http.Server {
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = AnswerTimeout
	}
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w = &timedWriter{ResponseWriter: w, limit: o.AnswerTimeout}
			err := mayAsk(r.Context())
			if err == nil {
				err = withinLimit(r.Context())
			}
			if err != nil {
				w.Header().Set(protocol.Header, strconv.Itoa(protocol.Version))
				w.Header().Set("Connection", "close")
				Refuse(w, err)
				return
			}
			if r.Method == http.MethodPost && r.URL.Path == protocol.HandoverPath && o.Handover != nil {
				o.Handover(w, r)
				return
			}
			next.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if k, ok := c.(*connection); ok {
				ctx = context.WithValue(ctx, overLimitKey{}, k.overLimit)
				if k.overLimit {
					o.Logger.Warn("more connections than are served at once", "served", maxConnections)
				}
				c = k.Conn
			}
			cred, err := peer(c)
			if err != nil {
				o.Logger.Warn("the user of a connection is unknown", "error", err)
			}
			return context.WithValue(ctx, peerKey{}, cred)
		},
	}
}

// Peer returns the credentials of the process that sent the request of a context, or nil if they
// are unknown.
func Peer(ctx context.Context) *unix.Ucred {
	cred, _ := ctx.Value(peerKey{}).(*unix.Ucred)
	return cred
}

// peer asks the kernel for the credentials of the process that connected.
func peer(c net.Conn) (*unix.Ucred, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T is no unix connection", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, credErr
}

func mayAsk(ctx context.Context) error {
	if cred := Peer(ctx); cred != nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid()) {
		return nil
	}
	return protocol.ErrForbidden
}

// timedWriter cuts off a client that does not read its answer. The time starts with the answer, as
// a request may take any time.
type timedWriter struct {
	http.ResponseWriter
	limit time.Duration
}

// WriteHeader begins an answer.
func (t *timedWriter) WriteHeader(status int) {
	_ = http.NewResponseController(t.ResponseWriter).SetWriteDeadline(time.Now().Add(t.limit)) // every connection supports deadlines
	t.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (t *timedWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }
