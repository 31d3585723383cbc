package objstore

import (
	"context"
	"sync/atomic"
	"time"
)

// defaultCollectRate is how many bytes a second work beside the I/O reads and writes at most: a tenth or
// less of what a disk does that stores of many terabytes lie on.
const defaultCollectRate = 64 << 20

// collectRate keeps the cycle under way to a rate, which may change meanwhile, and to half of the
// time: on a slow machine little is done for many bytes, and a processor that a cycle takes for
// itself is missing for I/O. set may be called from any goroutine, the others from one at a time.
type collectRate struct {
	rate atomic.Int64 // bytes a second; below 0: no bound

	until time.Time // when what was taken so far is paid for
	since time.Time // the end of the last pause
}

// set sets the rate; 0: the default, below 0: no bound.
func (t *collectRate) set(rate int64) {
	if rate == 0 {
		rate = defaultCollectRate
	}
	t.rate.Store(rate)
}

// begin notes that a cycle begins.
func (t *collectRate) begin() { t.since = time.Now() }

// limit returns the rate in bytes a second; 0: no bound.
func (t *collectRate) limit() int64 {
	if rate := t.rate.Load(); rate > 0 && rate != NoCollectLimit {
		return rate
	}
	return 0
}

const (
	// collectBurst is how long a cycle goes on before it pauses: pauses are not shorter. A cycle has one of
	// Go's processors meanwhile, which requests may wait for, as Go does not know of priorities: about as
	// long as an fsynced write takes is what it may delay one. With bursts of a millisecond the 99th
	// percentile of such writes was half as long again beside what a cycle reads alone.
	collectBurst = 200 * time.Microsecond
	// collectNap bounds a pause, since the rate may change meanwhile.
	collectNap = time.Second
)

// take pauses for as long as n bytes take at the rate, and at least for as long as the cycle has
// worked since the last pause.
func (t *collectRate) take(ctx context.Context, n int64) error {
	rate := t.limit()
	if rate == 0 {
		return nil
	}
	now := time.Now()
	if t.until.Before(now) {
		t.until = now
	}
	t.until = t.until.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	pause := max(t.until.Sub(now), now.Sub(t.since))
	if pause < collectBurst {
		return nil
	}
	if !sleep(ctx, min(pause, collectNap)) {
		return ctx.Err()
	}
	t.since = time.Now()
	return nil
}
