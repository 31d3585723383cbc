package wire

import "golang.org/x/sys/unix"

// Errno is the error of a reply, as the protocol numbers them.
type Errno uint32

// shutdown is the error of a server that is about to end: the request may be sent to its successor.
const shutdown Errno = 108

// errnos are those of the protocol that have the meaning of an errno here.
var errnos = map[Errno]unix.Errno{
	1: unix.EPERM, 5: unix.EIO, 12: unix.ENOMEM, 22: unix.EINVAL, 28: unix.ENOSPC, 75: unix.EOVERFLOW,
	95: unix.EOPNOTSUPP, shutdown: unix.ESHUTDOWN,
}

// Err returns the errno, EIO for one that the protocol does not know, nil for 0.
func (e Errno) Err() error {
	if e == 0 {
		return nil
	}
	if errno, ok := errnos[e]; ok {
		return errno
	}
	return unix.EIO
}
