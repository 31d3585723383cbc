// Package handover hands a store over from one daemon to the next while its devices are in use.
//
// The successor sends an HTTP request to the predecessor's socket, and the connection becomes a
// stream of JSON messages, which package protocol describes. Two files are sent with them: the
// store's lock and the listening socket. This package has both ends of the connection, each named
// for the process at the other end: the successor uses a Predecessor, the predecessor a Successor.
// What the daemons do between the messages is up to them.
//
// At every moment one process owns the store, or the other knows for certain that it is dead: the
// predecessor watches its successor through a pidfd, and kills it before it continues alone; the
// successor sees the end of the connection.
package handover

import "golang.org/x/sys/unix"

// Monotonic is a clock that all processes of the machine share, in nanoseconds.
func Monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // CLOCK_MONOTONIC always exists
	return t.Nano()
}
