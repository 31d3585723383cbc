// Package lincheck records what concurrent clients do to a disk, and checks that the history is
// linearizable: for each request there is one moment between its invocation and its response at
// which it takes effect, such that every read returns the result of the writes before it. Only
// tests use it.
//
//	History   what all clients did, with the times of a monotonic clock, and when the server was killed
//	Client    sends requests, one at a time; each of its writes has a unique value
//	cell      64 bytes with the value that was written last, zeroes, or garbage
//	register  8 cells that one write changes together: a sector, unless said otherwise
//
// A block device promises no more than this: a request of several sectors takes effect for each
// sector by itself, and two requests that overlap may be seen in one order at one sector and in the
// other at the next. So a request is split into one operation for each register, and the registers
// are checked one by one, by porcupine.
//
// The death of the server leaves requests whose outcome is unknown. What becomes of them depends on
// the way that they took, which the client declares: see [Death].
package lincheck
