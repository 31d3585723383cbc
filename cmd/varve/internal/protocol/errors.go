package protocol

import (
	"errors"
	"net/http"

	"varve/objstore"
)

// Errors of a daemon, for errors.Is. A daemon also returns objstore's errors.
var (
	// ErrNeedsDaemon: the request needs a daemon, and none is running.
	ErrNeedsDaemon = errors.New("no daemon is running for this store; start one with `varve serve --background`")
	// ErrStopping: the daemon is stopping.
	ErrStopping = errors.New("the daemon is stopping")
	// ErrOverloaded: the daemon lacks a resource that the request needs.
	ErrOverloaded = errors.New("the daemon is overloaded")
	// ErrOverLimit: the daemon is at its limit of connections or requests. It has done nothing:
	// retry.
	ErrOverLimit = errors.New("the daemon is busy with other requests")
	// ErrForbidden: the client is neither the daemon's user nor root.
	ErrForbidden = errors.New("permission denied: this daemon answers only its own user and root")
	// ErrBusy: the device or mount is open.
	ErrBusy = errors.New("in use")
	// ErrNoTransport: the kernel has no ublk, or no loop devices.
	ErrNoTransport = errors.New("no such transport on this machine")
)

// kinds identify errors on the socket, so that errors.Is works on a client's errors too.
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
	{"crowded", ErrOverLimit, http.StatusServiceUnavailable}, // the name that protocol 1 has for it
	{"forbidden", ErrForbidden, http.StatusForbidden},
	{"stopping", ErrStopping, http.StatusServiceUnavailable},
	{"closed", objstore.ErrClosed, http.StatusServiceUnavailable},
}

// As returns an error with the text of err that also matches sentinel.
func As(sentinel, err error) error { return &identity{sentinel, err} }

type identity struct{ sentinel, err error }

func (e *identity) Error() string   { return e.err.Error() }
func (e *identity) Unwrap() []error { return []error{e.sentinel, e.err} }

// Error is an error on the socket.
type Error struct {
	Kind    string `json:"kind,omitempty"` // empty: none of the kinds
	Message string `json:"error"`
}

// NewError returns the description of err for the socket, and its HTTP status.
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

// Unwrap returns the sentinel of the kind.
func (e *Error) Unwrap() error {
	for _, k := range kinds {
		if k.name == e.Kind {
			return k.err
		}
	}
	return nil
}
