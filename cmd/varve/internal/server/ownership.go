package server

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/ballast"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// Ownership is the right to serve a store: the store's lock, and the listening socket. Both outlast
// an opening of the store and pass from a daemon to its successor, so at no moment does a command
// find the store free or no daemon. One goroutine uses it at a time.
type Ownership struct {
	dir    string
	lock   *objstore.Lock
	socket *os.File // listens; nil: not yet
	lent   bool     // a predecessor has it too, and goes on if this process fails
	inode  uint64   // of the socket's name when first seen; 0: not seen yet
	said   bool     // logged that the socket cannot be made again
	log    *slog.Logger
}

// Own takes the lock of the store in dir. It fails if another process has the lock.
func Own(dir string, log *slog.Logger) (*Ownership, error) {
	lock, err := objstore.TakeLock(dir)
	if err != nil {
		return nil, err
	}
	return &Ownership{dir: dir, lock: lock, log: log}, nil
}

// Inherit makes an Ownership of the lock and the socket that a predecessor has sent. Until Keep
// they also stay the predecessor's, which may have to go on.
func Inherit(dir string, lock, socket *os.File, log *slog.Logger) *Ownership {
	return &Ownership{dir: dir, lock: objstore.InheritLock(dir, lock), socket: socket, log: log, lent: true}
}

// Keep makes an inherited Ownership this process's own: the predecessor has ended, or is about to.
func (o *Ownership) Keep() { o.lent = false }

// Lock returns the store's lock, which stays the Ownership's.
func (o *Ownership) Lock() *objstore.Lock { return o.lock }

// Dir returns the store's directory when the lock was taken.
func (o *Ownership) Dir() string { return o.dir }

// Descriptors returns the files that a successor inherits.
func (o *Ownership) Descriptors() (lock, socket *os.File) { return o.lock.File(), o.socket }

// Files returns a path to the store's directory that stays valid when the store is moved.
func (o *Ownership) Files() (string, error) { return o.lock.Dir().Handle() }

// Path returns the name of the socket.
func (o *Ownership) Path() string { return filepath.Join(o.dir, protocol.SocketName) }

// Listen begins to queue connections, which a server on Listener answers.
func (o *Ownership) Listen() error {
	if o.socket != nil {
		return nil
	}
	files, err := o.Files()
	if err != nil {
		return err
	}
	if err := ballast.Keep(files); err != nil {
		o.log.Warn("no space is reserved for when the disk is full", "error", err)
	}
	var l net.Listener
	err = ballast.With(files, func() (err error) {
		l, err = Listen(files)
		return err
	})
	if err != nil {
		return err
	}
	if u, ok := l.(*net.UnixListener); ok {
		o.socket, err = u.File()
	} else {
		err = fmt.Errorf("%T is no unix socket", l)
	}
	return errors.Join(err, l.Close())
}

// CheckInterval is how often a daemon should check that its socket is Reachable.
const CheckInterval = time.Second

// Reachable reports whether the socket's name still leads to the socket. Others may have removed or
// replaced it.
func (o *Ownership) Reachable() bool {
	files, err := o.Files()
	if err != nil {
		return true // unknown: assume that it is
	}
	var st unix.Stat_t
	err = unix.Lstat(filepath.Join(files, protocol.SocketName), &st)
	if err == nil && o.inode == 0 {
		o.inode = st.Ino
	}
	gone := errors.Is(err, fs.ErrNotExist) || err == nil && (st.Ino != o.inode || st.Mode&unix.S_IFMT != unix.S_IFSOCK)
	return !gone
}

// ListenAnew makes the socket again after its name was removed or replaced.
func (o *Ownership) ListenAnew() (net.Listener, error) {
	old := o.socket
	o.socket, o.inode = nil, 0
	err := o.Listen()
	var l net.Listener
	if err == nil {
		l, err = o.Listener()
	}
	if err != nil {
		if !o.said {
			o.log.Error("the socket was removed, and can't be made again", "socket", o.Path(), "error", err)
		}
		o.said = true
		if o.socket != nil {
			_ = o.socket.Close() // nothing was written to it
		}
		o.socket = old
		return nil, err
	}
	_ = old.Close() // nothing was written to it
	o.said = false
	o.log.Warn("the socket was removed; it was made again", "socket", o.Path())
	return l, nil
}

// Listener returns the socket for one server, with the limit on connections; closing it leaves the
// socket listening.
func (o *Ownership) Listener() (net.Listener, error) {
	l, err := net.FileListener(o.socket)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", o.Path(), err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	return limit(l), nil
}

// Silence ends listening: from then on commands find no daemon.
func (o *Ownership) Silence() {
	if o.socket == nil || o.lent {
		return
	}
	if err := o.lock.Dir().Remove(protocol.SocketName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.log.Warn("socket is left over", "error", err)
	}
	_ = o.socket.Close() // nothing was written to it
	o.socket = nil
}

// Close releases the store: no daemon owns it any more, unless a successor does.
func (o *Ownership) Close() error {
	if o.lock == nil {
		return nil // a successor has it
	}
	o.Silence()
	return o.Cede()
}

// Cede releases this process's share, after a successor has received its own.
func (o *Ownership) Cede() error {
	var err error
	if o.socket != nil {
		err = o.socket.Close()
	}
	err = errors.Join(err, o.lock.Close())
	o.lock, o.socket = nil, nil
	return err
}
