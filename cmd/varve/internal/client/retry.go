package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"varve/cmd/varve/internal/protocol"
)

// A daemon limits its connections, and the requests that wait for a snapshot to settle. It refuses
// a request above a limit before doing anything, and the client retries.

// RetryTimeout bounds how long a request is retried. Do not change it while clients are in use.
var RetryTimeout = 30 * time.Second

// The pause before a retry starts at about firstPause and doubles each time, up to longestPause.
const (
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
)

// retryable reports whether a daemon refused a request because of a limit, and has done nothing.
// EAGAIN means that the socket's backlog of connections is full (unix(7)).
func retryable(err error) bool {
	return errors.Is(err, protocol.ErrOverLimit) || errors.Is(err, syscall.EAGAIN)
}

// retry calls ask until the daemon is below its limits, for RetryTimeout at most.
func retry(ctx context.Context, ask func() error) error {
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := ask()
		if !retryable(err) {
			return err
		}
		if time.Since(began)+pause > RetryTimeout {
			return fmt.Errorf("retried for %v: %w", RetryTimeout, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause/2 + rand.N(pause)): // spreads the retries of many clients
		}
	}
}
