package protocol

import (
	"errors"
	"net/http"

	"varve/objstore"
)

// What a caller may test for with errors.Is, beside objstore's.
var (
	// ErrNeedsDaemon: the request is for a daemon, and none runs.
	ErrNeedsDaemon = errors.New("no daemon runs for this store; start one with `varve serve --background`")
	// ErrStopping: the daemon is on its way out.
	ErrStopping = errors.New("the daemon is stopping")
	// ErrOverloaded: the daemon has no room for what takes more of it.
	ErrOverloaded = errors.New("the daemon is overloaded")
	// ErrCrowded: the daemon has as many connections or requests as it serves at once, and has done nothing: ask again.
	ErrCrowded = errors.New("the daemon is busy with others")
	// ErrForbidden: the client is neither the daemon's user nor root.
	ErrForbidden = errors.New("permission denied: this daemon answers only its own user and root")
	// ErrBusy: the device or mount is open.
	ErrBusy = errors.New("in use")
	// ErrNoTransport: the kernel has no ublk, or no loop devices.
	ErrNoTransport = errors.New("no such transport on this machine")
)

// kinds give an error the same identity on both sides of the socket: errors.Is works on what a client gets.
var kinds = []struct {
	name   string
	err    error
	status int
}{
	{"invalid", objstore.ErrInvalid, http.StatusBadRequest},
	{"not_found", objstore.ErrNotFound, http.StatusNotFound},
	{"exists", objstore.ErrExists, http.StatusConflict},
	{"in_use", objstore.ErrInUse, http.StatusConflict},
	{"busy", ErrBusy, http.StatusConflict},
	{"no_space", objstore.ErrNoSpace, http.StatusInsufficientStorage},
	{"read_only", objstore.ErrReadOnly, http.StatusForbidden},
	{"corrupt", objstore.ErrCorrupt, http.StatusInternalServerError},
	{"needs_daemon", ErrNeedsDaemon, http.StatusServiceUnavailable},
	{"no_transport", ErrNoTransport, http.StatusServiceUnavailable},
	{"overloaded", ErrOverloaded, http.StatusServiceUnavailable},
	{"crowded", ErrCrowded, http.StatusServiceUnavailable},
	{"forbidden", ErrForbidden, http.StatusForbidden},
	{"stopping", ErrStopping, http.StatusServiceUnavailable},
	{"closed", objstore.ErrClosed, http.StatusServiceUnavailable},
}

// As gives err the identity of a sentinel, and leaves its text alone.
func As(sentinel, err error) error { return &identity{sentinel, err} }

type identity struct{ sentinel, err error }

func (e *identity) Error() string   { return e.err.Error() }
func (e *identity) Unwrap() []error { return []error{e.sentinel, e.err} }

// Error is a refusal as it goes over the socket.
type Error struct {
	Kind    string `json:"kind,omitempty"` // empty: none that a client could tell apart
	Message string `json:"error"`
}

// NewError describes err for the other side, with the HTTP status that fits it.
func NewError(err error) (*Error, int) {
	var already *Error
	if errors.As(err, &already) {
		for _, k := range kinds {
			if k.name == already.Kind {
				return &Error{Kind: k.name, Message: err.Error()}, k.status
			}
		}
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return &Error{Kind: k.name, Message: err.Error()}, k.status
		}
	}
	return &Error{Message: err.Error()}, http.StatusInternalServerError
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the sentinel that the kind stands for.
func (e *Error) Unwrap() error {
	for _, k := range kinds {
		if k.name == e.Kind {
			return k.err
		}
	}
	return nil
}
