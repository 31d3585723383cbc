package lockorder

import (
	"context"
	"sync"
)

// ContextMutex is a Mutex whose waiters can give up; for locks that are held over file operations, or longer. The zero value
// is ready.
type ContextMutex[L Lock] struct {
	once sync.Once
	slot chan struct{} // has one element while the lock is held
}

func (m *ContextMutex[L]) ready() chan struct{} {
	m.once.Do(func() { m.slot = make(chan struct{}, 1) })
	return m.slot
}

// Lock takes the lock.
func (m *ContextMutex[L]) Lock() {
	taking[L](m)
	m.ready() <- struct{}{}
	taken[L](m)
}

// LockContext takes the lock, or returns the error of a context that ended first, or that had ended before.
func (m *ContextMutex[L]) LockContext(ctx context.Context) error {
	taking[L](m)
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case m.ready() <- struct{}{}:
		taken[L](m)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TryLock takes the lock if nobody has it.
func (m *ContextMutex[L]) TryLock() bool {
	select {
	case m.ready() <- struct{}{}:
		taken[L](m)
		return true
	default:
		return false
	}
}

// Unlock gives the lock up.
func (m *ContextMutex[L]) Unlock() {
	released[L](m)
	<-m.ready()
}
