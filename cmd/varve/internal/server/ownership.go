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

// Ownership of a store is what only one daemon of it has: the store's lock, and the socket that listens. Both outlast an
// opening of the store, and go from a daemon to its successor, so that there is no moment at which a command finds the
// store free or nobody to ask. It is used by one goroutine at a time.
type Ownership struct {
	dir    string
	lock   *objstore.Lock
	socket *os.File // listens; nil: not yet
	lent   bool     // a predecessor's, which goes on if this process fails
	inode  uint64   // of the socket's name, as it was first seen; 0: not yet
	said   bool     // it is in the log that the socket can't be made again
	log    *slog.Logger
}

// Own takes the lock of the store in dir, which nobody else may have.
func Own(dir string, log *slog.Logger) (*Ownership, error) {
	lock, err := objstore.TakeLock(dir)
	if err != nil {
		return nil, err
	}
	return &Ownership{dir: dir, lock: lock, log: log}, nil
}

// Inherit makes an Ownership of the lock and the socket that a predecessor has sent. They stay the predecessor's, which
// may have to go on, until Keep.
func Inherit(dir string, lock, socket *os.File, log *slog.Logger) *Ownership {
	return &Ownership{dir: dir, lock: objstore.InheritLock(dir, lock), socket: socket, log: log, lent: true}
}

// Keep makes what was inherited this process's own: the predecessor has ended, or is about to.
func (o *Ownership) Keep() { o.lent = false }

// Lock returns the store's lock, which stays the Ownership's.
func (o *Ownership) Lock() *objstore.Lock { return o.lock }

// Dir returns where the store was when it was taken.
func (o *Ownership) Dir() string { return o.dir }

// Descriptors returns the files that a successor inherits.
func (o *Ownership) Descriptors() (lock, socket *os.File) { return o.lock.File(), o.socket }

// Files returns a path to the store's directory that leads there also when the store is moved.
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
		o.log.Warn("no room is kept for the day when the disk is full", "error", err)
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

// Reachable reports whether the socket's name still leads to the socket. Others may have removed or replaced it.
func (o *Ownership) Reachable() bool {
	files, err := o.Files()
	if err != nil {
		return true // it can't be known
	}
	var st unix.Stat_t
	err = unix.Lstat(filepath.Join(files, protocol.SocketName), &st)
	if err == nil && o.inode == 0 {
		o.inode = st.Ino
	}
	gone := errors.Is(err, fs.ErrNotExist) || err == nil && (st.Ino != o.inode || st.Mode&unix.S_IFMT != unix.S_IFSOCK)
	return !gone
}

// ListenAnew makes the socket again where its name is gone.
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

// Listener returns the socket for one server, with the limit on connections; closing it leaves the socket listening.
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

// Silence ends the listening: a command that comes now finds no daemon.
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

// Close gives the store up: no daemon owns it any more, unless a successor does.
func (o *Ownership) Close() error {
	if o.lock == nil {
		return nil // a successor has it
	}
	o.Silence()
	return o.Cede()
}

// Cede gives up this process's share, after a successor has got its own.
func (o *Ownership) Cede() error {
	var err error
	if o.socket != nil {
		err = o.socket.Close()
	}
	err = errors.Join(err, o.lock.Close())
	o.lock, o.socket = nil, nil
	return err
}
