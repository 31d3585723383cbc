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

// A daemon serves so many connections at once, and so many requests that wait for a snapshot. Whoever comes beyond that
// is told so before anything is done, and asks again.

// CrowdPatience bounds how long a request is asked again. It is not to be changed while clients are in use.
var CrowdPatience = 30 * time.Second

// A client asks again after firstPause at least, and then after twice as long each time, up to longestPause.
const (
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
)

// crowded reports that a daemon has done nothing yet, for there are too many who want something of it. EAGAIN is the
// kernel's word for a socket with more connections than may wait to be accepted (unix(7)).
func crowded(err error) bool {
	return errors.Is(err, protocol.ErrCrowded) || errors.Is(err, syscall.EAGAIN)
}

// patiently asks until the daemon is not crowded, or for so long that somebody has to know.
func patiently(ctx context.Context, ask func() error) error {
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := ask()
		if !crowded(err) {
			return err
		}
		if time.Since(began)+pause > CrowdPatience {
			return fmt.Errorf("the daemon was asked for %v, and had no time: %w", CrowdPatience, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause/2 + rand.N(pause)): // not all at once
		}
	}
}
