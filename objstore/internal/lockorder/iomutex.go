package lockorder

import (
	"context"
	"sync"

	"varve/objstore/queuethread"
)

// IOMutex is a mutex that may be held over file operations, and longer: its waiters can give up,
// and it is never taken on a queue's thread (package queuethread). The zero value is unlocked.
type IOMutex[L Lock] struct {
	once sync.Once
	slot chan struct{} // has one element while the lock is held
}

func (m *IOMutex[L]) ready() chan struct{} {
	m.once.Do(func() { m.slot = make(chan struct{}, 1) })
	return m.slot
}

// Lock takes the lock.
func (m *IOMutex[L]) Lock() {
	queuethread.Blocks("a lock that is held over I/O")
	taking[L](m)
	m.ready() <- struct{}{}
	taken[L](m)
}

// LockContext takes the lock, or returns the error of a context that ended first, or that had ended
// before.
func (m *IOMutex[L]) LockContext(ctx context.Context) error {
	queuethread.Blocks("a lock that is held over I/O")
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

// TryLock takes the lock if it is free.
func (m *IOMutex[L]) TryLock() bool {
	select {
	case m.ready() <- struct{}{}:
		taken[L](m)
		return true
	default:
		return false
	}
}

// Unlock releases the lock.
func (m *IOMutex[L]) Unlock() {
	released[L](m)
	<-m.ready()
}
