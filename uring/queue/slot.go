package queue

import (
	"fmt"

	"varve/uring"
)

// slot is one tag of one queue. It belongs to the queue's thread, except the request of a slot in
// slotWorker or slotHeld, which belongs to the worker or to the goroutine that resumes it.
type slot struct {
	tag     uint16
	state   slotState
	req     Request
	handler Handler
	fused   *uring.Fused
	err     error // the first of the transfer under way

	early   bool   // resumed before the handler has returned Hold
	resumed result // with what
}

// fail keeps the first error of a transfer.
func (s *slot) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// slotState tells the owner of a slot.
//
//	            fetched            Submit
//	slotKernel --------> slotOurs --------> slotIO
//	    ^  |              |  ^  ^             |
//	    |  | taken back   |  |  '-------------' last secondary
//	    |  v              |  '--- slotWorker, slotHeld
//	    | slotDead        '-------------^ Handoff, Hold
//	    '--- committed ---'
type slotState uint8

const (
	slotNew    slotState = iota // not fetched yet
	slotKernel                  // a fetch is with the driver
	slotOurs                    // a request is with us, and nothing of it is under way
	slotIO                      // secondaries are in flight
	slotWorker                  // a worker goroutine has it
	slotHeld                    // its target has it, until it resumes the request
	slotDead                    // the driver took the fetch back for good, or the request is left to a successor
	slotStates
)

var slotNames = [slotStates]string{"new", "kernel", "ours", "io", "worker", "held", "dead"}

// slotMoves are the transitions that exist.
var slotMoves = [slotStates][slotStates]bool{
	slotNew:    {slotKernel: true},
	slotKernel: {slotOurs: true, slotDead: true},
	slotOurs:   {slotKernel: true, slotIO: true, slotWorker: true, slotHeld: true, slotDead: true},
	slotIO:     {slotOurs: true},
	slotWorker: {slotOurs: true},
	slotHeld:   {slotOurs: true},
}

// move is the only place that changes a slot's owner. A move that does not exist is a bug in the
// queue's loop, after which the owner of the request's memory is unknown.
func (s *slot) move(to slotState) {
	if !slotMoves[s.state][to] {
		panic(fmt.Sprintf("tag %d: %s -> %s", s.tag, slotNames[s.state], slotNames[to]))
	}
	s.state = to
}
