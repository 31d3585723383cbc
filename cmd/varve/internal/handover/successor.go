package handover

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore/failpoint"
)

// Time limits of a handover. They are short while I/O waits.
const (
	helloLimit = 30 * time.Second // for messages that need little work
	takeLimit  = 60 * time.Second // for the successor to open the store and take all devices
	killAfter  = 5 * time.Second  // for a successor that failed to end by itself
)

// Successor is a process that wants to take over: the predecessor's side of a handover.
type Successor struct {
	Hello protocol.Hello // with the PID from the kernel
	Given protocol.Given // what the successor is told about the devices, once they wait

	conn    *connection
	version string // of this daemon
	pidfd   int    // of the successor
	log     *slog.Logger
	err     error // why it does not receive the store
}

// Accept turns the connection of a request into one of a handover, and reads the successor's Hello.
// It returns nil if there is no successor, or if that has already been refused.
func Accept(w http.ResponseWriter, r *http.Request, version string, log *slog.Logger) (*Successor, error) {
	if got := r.Header.Get("Upgrade"); got != protocol.HandoverProtocol {
		w.Header().Set("Upgrade", protocol.HandoverProtocol)
		server.Answer(w, http.StatusUpgradeRequired, &protocol.Error{
			Message: fmt.Sprintf("handover protocol %q; this daemon knows %q", got, protocol.HandoverProtocol),
		})
		return nil, nil // already answered
	}
	cred := server.Peer(r.Context())
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		server.Refuse(w, fmt.Errorf("hand over: %w", err))
		return nil, err
	}
	conn, release := server.Unwrap(conn)
	defer release() // until then the connection counts
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is no unix connection", conn), conn.Close())
	}
	s := &Successor{conn: &connection{socket: uc}, pidfd: -1, version: version, log: log}
	_ = uc.SetDeadline(time.Now().Add(helloLimit)) // an error shows at the next read or write
	_, err = uc.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol.HandoverProtocol + "\r\n\r\n"))
	if err == nil {
		err = s.conn.receive(helloLimit, &s.Hello)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	if err := s.watch(cred); err != nil {
		return nil, errors.Join(err, s.Decline(err))
	}
	return s, nil
}

// Decline tells a successor why this daemon goes on, before anything has changed.
func (s *Successor) Decline(why error) error {
	defer s.Close()
	e, _ := protocol.NewError(why)
	return s.conn.send(helloLimit, protocol.Offer{Error: e, PID: os.Getpid(), Version: s.version})
}

// Offer tells a successor what there is to take over, and returns when it is ready. After an error
// the connection is closed.
func (s *Successor) Offer(offer protocol.Offer) error {
	var ready protocol.Go
	err := s.conn.send(helloLimit, offer)
	if err == nil {
		err = s.conn.receive(failpoint.Limit(helloLimit), &ready)
	}
	if err == nil && !ready.Ready {
		err = errors.New("the successor is not ready")
	}
	if err != nil {
		s.Close()
	}
	return err
}

// Alive reports whether the successor is still waiting.
func (s *Successor) Alive() bool { return s.conn.alive() }

// watch opens a pidfd of the successor's process, to know for certain when it is dead.
func (s *Successor) watch(cred *unix.Ucred) error {
	if cred == nil || cred.Pid <= 0 {
		return errors.New("the successor's process cannot be seen from here: is it in another PID namespace?")
	}
	s.Hello.PID = int(cred.Pid)
	fd, err := unix.PidfdOpen(s.Hello.PID, 0)
	if err != nil {
		return fmt.Errorf("watch the successor's process %d: %w", s.Hello.PID, err)
	}
	s.pidfd = fd
	return nil
}

// Fail records why the successor does not receive the store.
func (s *Successor) Fail(err error) { s.err = errors.Join(s.err, err) }

// Refuse tells the successor that it does not receive the store.
func (s *Successor) Refuse(err error) {
	e, _ := protocol.NewError(err)
	if err := s.conn.send(helloLimit, protocol.Given{Error: e}); err != nil && !errors.Is(err, ErrClosed) {
		s.log.Warn("the successor could not be told", "error", err)
	}
	s.Close()
}

// Give hands over the ownership of the store, once the store is closed. If it returns false, the
// successor is dead, and everything belongs to this daemon again.
func (s *Successor) Give(own *server.Ownership) bool {
	if s.err != nil {
		s.log.Error("upgrade failed; this daemon goes on", "error", s.err)
		s.Refuse(s.err)
		return false
	}
	defer s.Close()
	lock, socket := own.Descriptors()
	err := s.conn.send(helloLimit, s.Given, lock, socket)
	if err == nil {
		failpoint.Here(failpoint.UpgradeGiven)
		var taken protocol.Taken
		if err = s.conn.receive(failpoint.Limit(takeLimit), &taken); err == nil && taken.Error == nil {
			return true
		}
		if taken.Error != nil {
			err = taken.Error
		}
	}
	s.log.Error("the successor did not take over; this daemon goes on", "pid", s.Hello.PID, "error", err)
	s.awaitEnd()
	return false
}

// Close ends the handover.
func (s *Successor) Close() {
	s.conn.close()
	if s.pidfd >= 0 {
		_ = unix.Close(s.pidfd)
		s.pidfd = -1
	}
}

// awaitEnd returns when the successor is dead, and kills it if it does not end by itself: while it
// lives it may write to the store.
func (s *Successor) awaitEnd() {
	if s.awaitDeath(killAfter) {
		return
	}
	s.log.Warn("the successor does not end by itself: killing it", "pid", s.Hello.PID)
	for {
		if err := unix.PidfdSendSignal(s.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			s.log.Error("kill the successor", "pid", s.Hello.PID, "error", err)
		}
		if s.awaitDeath(takeLimit) {
			return
		}
		s.log.Error("the successor is still alive: the store and its devices wait for its end", "pid", s.Hello.PID)
	}
}

// awaitDeath reports whether the successor has died within the limit.
func (s *Successor) awaitDeath(limit time.Duration) bool {
	for deadline := time.Now().Add(limit); ; {
		p := []unix.PollFd{{Fd: int32(s.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(max(time.Until(deadline), 0).Milliseconds()))
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return n > 0
		}
	}
}
