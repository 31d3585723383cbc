// Package lincheck records what concurrent clients do to a disk, and checks that it was linearizable: that each
// request can be given one moment between its invocation and its response at which it takes effect, so that every
// read returns what the writes before it have left. Nothing but tests uses it.
//
//	History   what all clients did, with the times of a monotonic clock, and when the server was killed
//	Client    one of those who send requests, one at a time; each of its writes has a value of its own
//	cell      64 bytes that carry the value that was written last, zeroes, or nonsense
//	register  8 cells that one write changes together: a sector, unless said otherwise
//
// A block device promises no more than this: a request of several sectors takes effect for each sector by itself, and
// two requests that overlap may be seen in one order at one sector and in the other at the next. So a request is split
// into one operation for each register, and the registers are checked one by one, by porcupine.
//
// The death of the server leaves requests whose outcome nobody knows. What becomes of them depends on the way that
// they took, and the client says which that is: see [Death].
package lincheck
