package client

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
	"syscall"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/protocol"
)

// ErrNoDaemon means that no daemon answers on the store's socket.
var ErrNoDaemon = errors.New("no daemon")

// Dial connects to the daemon of a store. It returns ErrNoDaemon if there is none.
func Dial(ctx context.Context, store string) (*Client, error) {
	tr := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, store) },
		DisableCompression: true,
		MaxIdleConns:       1,
	}
	c := &Client{
		http:  &http.Client{Transport: tr},
		close: func() error { tr.CloseIdleConnections(); return nil },

		aliveEvery: aliveEvery, aliveTimeout: aliveTimeout,
	}
	var ping protocol.Ping
	err := retry(ctx, func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, Patience)
		defer cancel()
		ping, err = callOnce[protocol.Ping](ctx, c, http.MethodGet, "/v1/ping", nil)
		return err
	})
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR),
		errors.Is(err, errGone): // the daemon is ending
		return nil, fmt.Errorf("%w at %s", ErrNoDaemon, filepath.Join(store, protocol.SocketName))
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("the daemon's socket %s belongs to another user: %w; run as that user or root",
			filepath.Join(store, protocol.SocketName), fs.ErrPermission)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, newSilent(store, 0, Patience)
	case err != nil:
		return nil, err
	}
	c.ping = &ping
	return c, nil
}

// DialSocket connects to the socket without sending a request. It returns ErrNoDaemon if no process
// listens.
func DialSocket(ctx context.Context, store string) (net.Conn, error) {
	c, err := dial(ctx, store)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w at %s", ErrNoDaemon, filepath.Join(store, protocol.SocketName))
	}
	return c, err
}

// dial connects through the directory's descriptor, as a socket's address is limited to 108 bytes
// and a path is not.
func dial(ctx context.Context, store string) (net.Conn, error) {
	fd, err := unix.Open(store, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: store, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var d net.Dialer
	return d.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(fd)+"/"+protocol.SocketName)
}
