package objstore

import (
	"context"
	"errors"
	"fmt"
)

// settlerJob is work for the settler's goroutine that writes objects, and is not the settling of a
// layer.
type settlerJob struct {
	ctx  context.Context //nolint:containedctx // of the caller, which waits
	work func(context.Context) error
	done chan error // has room for the result
}

// do runs work on the settler's goroutine, between two settlings, and returns its error. work's
// context ends with ctx; it also ends when the settler stops, and work begins again when another
// settler has started. While a caller waits, settling does not give way to requests. ErrReadOnly in
// a store that takes no writes, which may have no settler.
func (t *settler) do(ctx context.Context, work func(context.Context) error) error {
	if err := t.deps.gate.writeError(); err != nil {
		return err
	}
	t.awaited.Add(1)
	defer t.awaited.Add(-1)
	for {
		j := settlerJob{ctx, work, make(chan error, 1)}
		select {
		case t.jobs <- j:
		case <-ctx.Done():
			return ctx.Err()
		case <-t.deps.closed:
			return fmt.Errorf("store: %w", ErrClosed)
		}
		err := <-j.done
		if !errors.Is(err, context.Canceled) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// run does the job. ctx is the settler's.
func (j *settlerJob) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(j.ctx, cancel)()
	j.done <- j.work(ctx)
}

// runJobs does the jobs of the callers that wait.
func (t *settler) runJobs(ctx context.Context) {
	for {
		select {
		case j := <-t.jobs:
			j.run(ctx)
		default:
			return
		}
	}
}
