// Package null is a disk that moves nothing: the yardstick for what a device costs by itself.
package null

import (
	"context"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/uring/queue"
)

// Null is a disk that answers at once. Reads leave the reader's memory as it was.
type Null struct {
	size      int64
	blockSize int
}

// New makes a null disk of size bytes; blockSize is 512 or 4096, or 0 for 512.
func New(size int64, blockSize int) *Null { return &Null{size: size, blockSize: blockSize} }

// Limits implements target.Target.
func (n *Null) Limits() target.Limits {
	return target.Limits{Size: n.size, BlockSize: n.blockSize, Discard: true, Zeroes: true, Cache: true}
}

// Fits implements target.Resizer: a disk that moves nothing has any size.
func (n *Null) Fits(int64) error { return nil }

// NewPart implements target.Target.
func (n *Null) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler { return handler{} }}, nil
}

type handler struct{}

func (handler) Start(r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpRead, queue.OpWrite, queue.OpFlush, queue.OpDiscard, queue.OpWriteZeroes:
		r.MoveNothing()
		return queue.Answer, nil
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
}

func (handler) Finish(_ *queue.Request, err error) (queue.Action, error) { return queue.Answer, err }

func (handler) Work(context.Context, *queue.Request) (queue.Action, error) { return queue.Answer, nil }
func (handler) Drop(*queue.Request)                                        {}
