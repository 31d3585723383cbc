package blockdev

import (
	"context"

	"varve/uring/queue"
)

// Null is a disk that answers at once and moves nothing: the yardstick for what a device costs by itself. Reads
// leave the reader's memory as it was.
type Null struct {
	size      int64
	blockSize int
}

// NewNull makes a null disk of size bytes; blockSize is 512 or 4096, or 0 for 512.
func NewNull(size int64, blockSize int) *Null { return &Null{size: size, blockSize: blockSize} }

// Limits implements Target.
func (n *Null) Limits() Limits {
	return Limits{Size: n.size, BlockSize: n.blockSize, Discard: true, Cache: true}
}

// NewHandler implements Target.
func (n *Null) NewHandler() queue.Handler { return nullHandler{} }

type nullHandler struct{}

func (nullHandler) Start(*queue.Request) (queue.Action, error) { return queue.Answer, nil }
func (nullHandler) Finish(_ *queue.Request, err error) (queue.Action, error) {
	return queue.Answer, err
}

func (nullHandler) Work(context.Context, *queue.Request) (queue.Action, error) {
	return queue.Answer, nil
}
func (nullHandler) Drop(*queue.Request) {}
