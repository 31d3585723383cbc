package objstore

import (
	"context"
	"time"
)

const (
	// throttleBurst is for how long work may make up for a time in which it was slower than its rate.
	throttleBurst = 100 * time.Millisecond
	// throttleNap is the shortest wait: shorter ones add up first.
	throttleNap = 5 * time.Millisecond
)

// throttle keeps work to a number of bytes per second. One goroutine uses it.
type throttle struct {
	rate int64     // bytes per second; 0: no limit
	due  time.Time // when the work so far should have come to its end
}

// wait is called before n more bytes are worked on. It waits until the rate allows them.
func (l *throttle) wait(ctx context.Context, n int) error {
	if l.rate <= 0 {
		return ctx.Err()
	}
	now := time.Now()
	if earliest := now.Add(-throttleBurst); l.due.Before(earliest) {
		l.due = earliest
	}
	l.due = l.due.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	if ahead := l.due.Sub(now); ahead >= throttleNap {
		sleep(ctx, ahead)
	}
	return ctx.Err()
}
