package nbd

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"varve/uring/queue"
)

// defaultPort is that of the protocol.
const defaultPort = "10809"

// Address is where an export is.
type Address struct {
	Network string // "tcp" or "unix"
	Host    string // "host:port", or the path of the socket
	Export  string // "" is the server's default
	TLS     bool
	Name    string // of the server, as its certificate has it; TLS
	Certs   string // the directory with certificates that the URI names; "" if it names none
}

// ParseURI reads nbd://host[:port]/export, nbds:// for TLS, and nbd+unix:///export?socket=PATH and
// nbds+unix://, as libnbd and qemu write them (doc/uri.md of the NBD project).
func ParseURI(s string) (Address, error) {
	wrong := func(format string, args ...any) (Address, error) {
		return Address{}, fmt.Errorf("%w: NBD address %q: %s", queue.ErrInvalid, s, fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(s)
	if err != nil {
		return wrong("it is no URI; use nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH")
	}
	a := Address{Network: "tcp", Name: u.Hostname()}
	switch u.Scheme {
	case "nbd":
	case "nbds":
		a.TLS = true
	case "nbd+unix":
		a.Network = "unix"
	case "nbds+unix":
		a.Network, a.TLS = "unix", true
	default:
		return wrong("scheme %q; use nbd, nbds, nbd+unix or nbds+unix", u.Scheme)
	}
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case err != nil:
		return wrong("its query can't be read: %v", err)
	case u.User != nil:
		return wrong("a user is for TLS with shared keys, which varve does not have; use certificates")
	case u.Fragment != "" || u.Opaque != "":
		return wrong("it is not of the form nbd://HOST[:PORT]/EXPORT")
	}
	for key := range query {
		switch key {
		case "socket", "tls-certificates", "tls-hostname":
		default:
			return wrong("parameter %q; use socket, tls-certificates or tls-hostname", key)
		}
	}
	a.Export = strings.TrimPrefix(u.Path, "/")
	a.Certs = query.Get("tls-certificates")
	if name := query.Get("tls-hostname"); name != "" {
		a.Name = name
	}
	socket := query.Get("socket")
	if a.Network == "unix" {
		if socket == "" || u.Host != "" {
			return wrong("use nbd+unix:///EXPORT?socket=PATH")
		}
		a.Host = socket
		if a.Name == "" {
			a.Name = "localhost"
		}
		return a, nil
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	switch {
	case socket != "":
		return wrong("a socket is for nbd+unix://")
	case u.Hostname() == "":
		return wrong("the host is missing")
	}
	a.Host = net.JoinHostPort(u.Hostname(), port)
	return a, nil
}
