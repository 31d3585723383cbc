package target

import (
	"sync/atomic"
	"time"
)

// FlushCost measures how long the flushes of a target take. A flush may block, and belongs on a
// worker; but the way to the worker and back costs more than the flush itself where the file system
// below is fast: there it is done at once. The zero FlushCost knows nothing yet.
type FlushCost struct {
	nanos atomic.Int64 // of the last flushes, the latest counting most; 0: not known yet
}

// quickFlush bounds what a queue may be kept from its other requests.
const quickFlush = 100 * time.Microsecond

// Quick reports whether a flush may be done on the queue's thread.
func (c *FlushCost) Quick() bool {
	n := c.nanos.Load()
	return n > 0 && n < int64(quickFlush)
}

// Took counts a flush that has ended.
func (c *FlushCost) Took(d time.Duration) {
	old := c.nanos.Load()
	c.nanos.Store(max((3*old+int64(d))/4, 1))
	if old == 0 || d > quickFlush {
		c.nanos.Store(int64(d)) // one slow flush is enough to leave the queue alone
	}
}
