package volume

import (
	"os"
	"testing"

	"varve/blockdev/target"
	"varve/objstore/queuethread"
	"varve/uring/queue"
)

// The queue's thread does no I/O of the store in all tests of the package that serve a watched
// target, unless the store is in memory.
func TestMain(m *testing.M) {
	queuethread.Watch(func(violation string) { panic(violation) })
	os.Exit(m.Run())
}

// watched is a target whose handlers act as on a queue's thread wherever that calls them.
type watched struct{ *disk }

func watch(t target.Target) target.Target { return watched{t.(*disk)} }

func (w watched) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler {
		return watchedHandler{&handler{volume: w.volume}}
	}}, nil
}

type watchedHandler struct{ *handler }

func (h watchedHandler) Start(r *queue.Request) (a queue.Action, err error) {
	queuethread.Run(func() { a, err = h.handler.Start(r) })
	return a, err
}

func (h watchedHandler) Finish(r *queue.Request, result error) (a queue.Action, err error) {
	queuethread.Run(func() { a, err = h.handler.Finish(r, result) })
	return a, err
}

func (h watchedHandler) Drop(r *queue.Request) { queuethread.Run(func() { h.handler.Drop(r) }) }
