package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore/vfs"
)

// Listen makes the socket of the store in dir, which only its owner may open. The store's lock is
// held, so an existing socket belongs to a dead daemon.
func Listen(dir string) (net.Listener, error) {
	path := filepath.Join(dir, protocol.SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier daemon: %w", err)
	}
	// Through the directory's descriptor: a socket's address has 108 bytes, a path any number.
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // a handle only
	// The mode must be right from the start: between bind and chmod any user could connect.
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: "/proc/self/fd/" + strconv.Itoa(fd) + "/" + protocol.SocketName})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it knows the socket by a descriptor that is closed by then
	files := vfs.OS(dir)
	if err := errors.Join(files.Own(protocol.SocketName), files.Close()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
