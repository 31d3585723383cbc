package queue

import "context"

// Handler serves the requests of one tag:
//
//	         Start                      Finish
//	request -------> Answer       .-----------> any action
//	            |--> Submit ------'
//	            |--> Handoff ---> Work -------> any action
//	            |    or Await
//	            `--> Hold ------> Queue.Resume, Request.Post -> any action
//
// Start and Finish run on the queue's thread and must not block: all requests of the queue would
// wait. An error beside any action is the answer. Only one of the methods runs at a time.
type Handler interface {
	// Start plans the request: it adds the secondaries and zeroes that cover all of r, and returns
	// Submit; or it answers; or it asks for Work.
	Start(r *Request) (Action, error)
	// Finish is called once after each Submit, when all that was added has been transferred, or
	// with the error of what has failed. Nothing of the request is in flight then.
	Finish(r *Request, err error) (Action, error)
	// Work may block. It runs on a worker goroutine. ctx ends when the device is stopped.
	Work(ctx context.Context, r *Request) (Action, error)
	// Drop releases whatever the handler holds for r, whose serving panicked, or which is held and
	// left to a successor. Nothing is in flight.
	Drop(r *Request)
}

// Sender is a Handler that sends on streams, where requests follow each other.
type Sender interface {
	Handler
	// Sent is called before Finish when all that was submitted has been sent, and the kernel holds
	// some of the bytes until the peer has them: the stream is free for another request, r is not. It
	// runs on the queue's thread. Without sends that do not copy it is not called.
	Sent(r *Request)
}

// Action is what a handler wants to be done next.
type Action uint8

// Actions.
const (
	Answer  Action = iota // the request is done
	Submit                // transfer what was added to the request, then call Finish
	Handoff               // call Work on a goroutine that may block
	Await                 // the same, and it may take long: what other requests need is done meanwhile
	Again                 // call Start again
	Hold                  // nothing, until Queue.Resume or Request.Post says what
)
