// Package handover carries a store from one daemon to the next while its devices are in use.
//
// The successor asks the predecessor by an HTTP request on its socket, and the connection becomes a stream of JSON messages,
// which package protocol describes. Beside them go two files: the store's lock and the listening socket. This package has the
// two ends, Predecessor and Successor, each named for who is at the other end; what the daemons do in between is theirs.
//
// At every moment one process owns the store, or the other one can tell for certain that it is dead: the predecessor watches
// its successor by a pidfd, and kills it before it goes on alone; the successor reads the end of the connection.
package handover

import "golang.org/x/sys/unix"

// Monotonic is a clock that all processes of the machine share, in nanoseconds.
func Monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it is there
	return t.Nano()
}
