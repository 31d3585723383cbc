package objstore

import (
	"context"
	"sync/atomic"
	"time"
)

// defaultCollectRate is how many bytes a second work beside the I/O reads and writes at most: a tenth or
// less of what a disk does that stores of many terabytes lie on.
const defaultCollectRate = 64 << 20

// collectRate keeps the cycle under way to a rate, which may change meanwhile. set may be called from any goroutine.
type collectRate struct {
	rate atomic.Int64 // bytes a second; below 0: no bound

	until time.Time // when what was taken so far is paid for
}

// set sets the rate; 0: the default, below 0: no bound.
func (t *collectRate) set(rate int64) {
	if rate == 0 {
		rate = defaultCollectRate
	}
	t.rate.Store(rate)
}

// limit returns the rate in bytes a second; 0: no bound.
func (t *collectRate) limit() int64 {
	if rate := t.rate.Load(); rate > 0 && rate != NoCollectLimit {
		return rate
	}
	return 0
}

// collectBurst is how long a cycle goes on before it pauses: pauses are not shorter.
const collectBurst = 20 * time.Millisecond

// take pauses for as long as n bytes take at the rate.
func (t *collectRate) take(ctx context.Context, n int64) error {
	rate := t.rate.Load()
	if rate < 0 {
		return nil
	}
	now := time.Now()
	if t.until.Before(now) {
		t.until = now
	}
	t.until = t.until.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	if ahead := t.until.Sub(now); ahead > collectBurst && !sleep(ctx, min(ahead, time.Second)) {
		return ctx.Err()
	}
	return nil
}
