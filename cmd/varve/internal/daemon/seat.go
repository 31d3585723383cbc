package daemon

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

// seat is what only one daemon of a store has: the store's lock, and the socket that listens. Both outlast an opening
// of the store, and go from a daemon to its successor, so that there is no moment at which a command finds the store
// free or nobody to ask.
type seat struct {
	dir    string
	lock   *objstore.Lock
	socket *os.File // listens; nil: not yet
	lent   bool     // a predecessor's, which goes on if we fail
	inode  uint64   // of the socket's name, as it was first seen; 0: not yet
	mute   bool     // it was said that the socket can't be made again
	log    *slog.Logger
}

func takeSeat(dir string, log *slog.Logger) (*seat, error) {
	lock, err := objstore.TakeLock(dir)
	if err != nil {
		return nil, err
	}
	return &seat{dir: dir, lock: lock, log: log}, nil
}

// listen begins to queue connections, which a server of listener's answers.
func (s *seat) listen() error {
	if s.socket != nil {
		return nil
	}
	files, err := s.files()
	if err != nil {
		return err
	}
	if err := ballast.Keep(files); err != nil {
		s.log.Warn("no room is kept for the day when the disk is full", "error", err)
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
		s.socket, err = u.File()
	} else {
		err = fmt.Errorf("%T is no unix socket", l)
	}
	return errors.Join(err, l.Close())
}

// socketLook is how often the daemon looks whether its socket is still there.
const socketLook = time.Second

// reachable says whether the socket's name still leads to the socket. Others may have removed or replaced it.
func (s *seat) reachable() bool {
	files, err := s.files()
	if err != nil {
		return true // it can't be known
	}
	var st unix.Stat_t
	err = unix.Lstat(filepath.Join(files, protocol.SocketName), &st)
	if err == nil && s.inode == 0 {
		s.inode = st.Ino
	}
	gone := errors.Is(err, fs.ErrNotExist) || err == nil && (st.Ino != s.inode || st.Mode&unix.S_IFMT != unix.S_IFSOCK)
	return !gone
}

// listenAnew makes the socket again where its name is gone.
func (s *seat) listenAnew() (net.Listener, error) {
	old := s.socket
	s.socket, s.inode = nil, 0
	err := s.listen()
	var l net.Listener
	if err == nil {
		l, err = s.listener()
	}
	if err != nil {
		if !s.mute {
			s.log.Error("the socket was removed, and can't be made again", "socket", s.path(), "error", err)
		}
		s.mute = true
		if s.socket != nil {
			_ = s.socket.Close() // nothing was written to it
		}
		s.socket = old
		return nil, err
	}
	_ = old.Close() // nothing was written to it
	s.mute = false
	s.log.Warn("the socket was removed; it was made again", "socket", s.path())
	return l, nil
}

// listener gives the socket to one server; closing it leaves the socket listening.
func (s *seat) listener() (net.Listener, error) {
	l, err := net.FileListener(s.socket)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.path(), err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	return newDoor(l), nil
}

// files is a path to the store's directory, wherever it has been moved to.
func (s *seat) files() (string, error) { return s.lock.Dir().Handle() }

func (s *seat) path() string { return filepath.Join(s.dir, protocol.SocketName) }

// silence ends the listening: a command that comes now finds no daemon.
func (s *seat) silence() {
	if s.socket == nil || s.lent {
		return
	}
	if err := s.lock.Dir().Remove(protocol.SocketName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("socket is left over", "error", err)
	}
	_ = s.socket.Close() // nothing was written to it
	s.socket = nil
}

// leave gives everything up: there is no daemon any more.
func (s *seat) leave() error {
	if s.lock == nil {
		return nil // a successor has it
	}
	s.silence()
	return s.cede()
}

// cede gives up this process's share, after a successor has got its own.
func (s *seat) cede() error {
	var err error
	if s.socket != nil {
		err = s.socket.Close()
	}
	err = errors.Join(err, s.lock.Close())
	s.lock, s.socket = nil, nil
	return err
}
