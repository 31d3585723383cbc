package blockdev

import "context"

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
func (n *Null) NewHandler() Handler { return nullHandler{} }

type nullHandler struct{}

func (nullHandler) Start(*Request) (Action, error)                 { return Answer, nil }
func (nullHandler) Finish(_ *Request, err error) (Action, error)   { return Answer, err }
func (nullHandler) Work(context.Context, *Request) (Action, error) { return Answer, nil }
func (nullHandler) Drop(*Request)                                  {}
