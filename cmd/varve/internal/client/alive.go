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

// A daemon may be stopped (SIGSTOP, a debugger, a frozen control group) or hang. A request takes what it takes, but
// while it is under way the daemon is asked now and then whether it is there.
const (
	// aliveEvery is how long a request runs before the daemon is asked, and asked again.
	aliveEvery = 10 * time.Second
	// aliveTimeout is how long that question may take.
	aliveTimeout = 20 * time.Second
)

// silentError is a daemon that does not answer.
type silentError struct {
	store string
	pid   int // 0: unknown
	limit time.Duration
}

func (e *silentError) Error() string {
	who := "the daemon of " + e.store
	if e.pid != 0 {
		who += fmt.Sprintf(", pid %d,", e.pid)
	}
	if e.pid != 0 && stopped(e.pid) {
		return fmt.Sprintf("%s is stopped and does not answer; `kill -CONT %d` lets it go on", who, e.pid)
	}
	if e.limit == 0 {
		return who + " does not answer"
	}
	return fmt.Sprintf("%s does not answer: not within %v", who, e.limit)
}

// Silent is err, of a daemon that did not answer in time, in words of who that is.
func Silent(store string, err error) error {
	pid, _ := objstore.Holder(store)
	return fmt.Errorf("%w: %w", &silentError{store: store, pid: pid}, err)
}

// IsSilent reports a daemon that is there and does not answer.
func IsSilent(err error) bool {
	var silent *silentError
	return errors.As(err, &silent)
}

// newSilent says who does not answer, as the lock's file has it where nobody has said so himself.
func newSilent(store string, pid int, limit time.Duration) error {
	if pid == 0 {
		pid, _ = objstore.Holder(store)
	}
	return &silentError{store, pid, limit}
}

// stopped reports a process that a signal or a debugger has stopped (proc_pid_stat(5): the state is behind the name).
func stopped(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	i := bytes.LastIndexByte(b, ')')
	return err == nil && i >= 0 && i+2 < len(b) && (b[i+2] == 'T' || b[i+2] == 't')
}

// watched gives a context for a request that ends when the daemon does not answer any more, with the reason as its
// cause. end is called when the request has its answer.
func (c *Client) watched(ctx context.Context) (_ context.Context, end func()) {
	if c.ping == nil { // in this process, or not yet known to be there
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

// because gives the reason why a request was given up, where there is one behind its error.
func because(ctx context.Context, err error) error {
	var silent *silentError
	if err != nil && errors.As(context.Cause(ctx), &silent) {
		return silent
	}
	return err
}
