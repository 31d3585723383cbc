package objstore

import (
	"errors"
	"sync"
	"sync/atomic"
)

// togetherAtMost bounds how many file operations one call of together has under way.
const togetherAtMost = 16

// together runs f for every item, several at a time, and returns when all have ended. What a file system is asked to sync
// at the same time it commits at once: it takes about as long as one. After an error no further one is begun; of several
// errors it returns one that neither is about room nor passes, if there is one.
func together[T any](items []T, f func(T) error) error {
	if len(items) == 1 {
		return f(items[0])
	}
	var next, failed atomic.Int64
	errs := make([]error, len(items))
	var workers sync.WaitGroup
	for range min(len(items), togetherAtMost) {
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
		if worst == nil || err != nil && (errors.Is(outOfSpace(worst), ErrNoSpace) || passing(worst)) {
			worst = err
		}
	}
	return worst
}
