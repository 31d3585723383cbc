package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore/vfs"
)

// Listen makes the store's socket, which only its owner may open. The store's lock is held: a socket that is
// there belongs to a dead daemon.
func Listen(store string) (net.Listener, error) {
	path := filepath.Join(store, protocol.SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier daemon: %w", err)
	}
	// Through the directory's descriptor: a socket's address has 108 bytes, a path any number.
	fd, err := unix.Open(store, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: store, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	// The mode has to be right from the start: between bind and chmod anybody could connect.
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: "/proc/self/fd/" + strconv.Itoa(fd) + "/" + protocol.SocketName})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it knows the socket by a descriptor that is closed by then
	files := vfs.OS(store)
	if err := errors.Join(files.Own(protocol.SocketName), files.Close()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// NewServer answers on the socket, to processes of the daemon's own user and to root.
func (d *Daemon) NewServer() *http.Server {
	next := d.Handler()
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w = &timedWriter{ResponseWriter: w, limit: d.answerTimeout}
			err := mayAsk(r.Context())
			if err == nil {
				err = mayEnter(r.Context())
			}
			if err != nil {
				w.Header().Set(protocol.Header, strconv.Itoa(protocol.Version))
				w.Header().Set("Connection", "close")
				refuse(w, err)
				return
			}
			if r.Method == http.MethodPost && r.URL.Path == protocol.HandoverPath {
				d.serveHandover(w, r) // also for other versions of the protocol
				return
			}
			next.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       readTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if v, ok := c.(*visitor); ok {
				ctx = context.WithValue(ctx, lateKey{}, v.late)
				if v.late {
					d.log.Warn("more connections than are served at once", "served", maxConnections)
				}
				c = v.Conn
			}
			cred, err := peer(c)
			if err != nil {
				d.log.Warn("connection from nobody knows whom", "error", err)
			}
			return context.WithValue(ctx, peerKey{}, cred)
		},
	}
}

// peer asks the kernel who connected; nil if it does not say.
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
	cred, _ := ctx.Value(peerKey{}).(*unix.Ucred)
	if cred != nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid()) {
		return nil
	}
	return protocol.ErrForbidden
}
