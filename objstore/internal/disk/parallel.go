package disk

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// ParallelContext is Parallel that starts no further item once ctx has ended.
func ParallelContext[T any](ctx context.Context, items []T, f func(T) error) error {
	return Parallel(items, func(item T) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return f(item)
	})
}

// maxParallel bounds how many file operations one call of Parallel has under way.
const maxParallel = 16

// Parallel runs f for every item, several at a time, and returns when all have ended. A file system
// commits what it is asked to sync at the same time at once: several syncs take about as long as
// one. After an error Parallel starts no further item. Of several errors it returns one that is
// neither transient nor about space, if there is one.
func Parallel[T any](items []T, f func(T) error) error {
	if len(items) == 1 {
		return f(items[0])
	}
	var next, failed atomic.Int64
	errs := make([]error, len(items))
	var workers sync.WaitGroup
	for range min(len(items), maxParallel) {
		workers.Go(func() {
			for failed.Load() == 0 {
				i := int(next.Add(1)) - 1
				if i >= len(items) {
					return
				}
				if errs[i] = f(items[i]); errs[i] != nil {
					failed.Add(1)
				}
			}
		})
	}
	workers.Wait()
	var worst error
	for _, err := range errs {
		if worst == nil || err != nil && (errors.Is(SpaceError(worst), ErrNoSpace) || Transient(worst)) {
			worst = err
		}
	}
	return worst
}
