package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// A daemon may be stopped (SIGSTOP, a debugger, a frozen control group) or hang. A request has no
// timeout of its own; instead the client pings the daemon while the request runs.
const (
	// aliveEvery is the interval between pings.
	aliveEvery = 10 * time.Second
	// aliveTimeout bounds one ping.
	aliveTimeout = 20 * time.Second
)

// silentError means that a daemon does not answer.
type silentError struct {
	store string
	pid   int // 0: unknown
	limit time.Duration
}

func (e *silentError) Error() string {
	daemon := "the daemon of " + e.store
	if e.pid != 0 {
		daemon += fmt.Sprintf(", pid %d,", e.pid)
	}
	if e.pid != 0 && stopped(e.pid) {
		return fmt.Sprintf("%s is stopped and does not answer; `kill -CONT %d` continues it", daemon, e.pid)
	}
	if e.limit == 0 {
		return daemon + " does not answer"
	}
	return fmt.Sprintf("%s does not answer: not within %v", daemon, e.limit)
}

// Silent adds to err, of a daemon that did not answer in time, which daemon that is.
func Silent(store string, err error) error {
	pid, _ := objstore.Holder(store)
	return fmt.Errorf("%w: %w", &silentError{store: store, pid: pid}, err)
}

// IsSilent reports whether err means that a daemon is running but does not answer.
func IsSilent(err error) bool {
	var silent *silentError
	return errors.As(err, &silent)
}

// newSilent returns a silentError. If pid is 0, the PID is read from the store's lock file.
func newSilent(store string, pid int, limit time.Duration) error {
	if pid == 0 {
		pid, _ = objstore.Holder(store)
	}
	return &silentError{store, pid, limit}
}

// stopped reports whether a signal or a debugger has stopped a process (proc_pid_stat(5): the state
// follows the name).
func stopped(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	i := bytes.LastIndexByte(b, ')')
	return err == nil && i >= 0 && i+2 < len(b) && (b[i+2] == 'T' || b[i+2] == 't')
}

// watched returns a context for a request, which is canceled when the daemon stops answering pings,
// with the reason as its cause. Call end when the request is answered.
func (c *Client) watched(ctx context.Context) (_ context.Context, end func()) {
	if c.ping == nil { // in this process, or not yet connected
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(c.aliveEvery):
			}
			asked, stop := context.WithTimeout(ctx, c.aliveTimeout)
			_, err := callOnce[protocol.Ping](asked, &Client{http: c.http}, http.MethodGet, "/v1/ping", nil)
			stop()
			if errors.Is(err, context.DeadlineExceeded) {
				cancel(newSilent(c.ping.Store, c.ping.PID, c.aliveTimeout))
				return
			}
		}
	}()
	return ctx, func() { cancel(nil); <-ended }
}

// because returns the cause of a canceled context, if it is a silent daemon, in place of err.
func because(ctx context.Context, err error) error {
	var silent *silentError
	if err != nil && errors.As(context.Cause(ctx), &silent) {
		return silent
	}
	return err
}
