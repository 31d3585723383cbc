package lockorder

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A waiter whose context ends leaves, and the lock goes to who still waits.
func TestIOMutexLetsWaitersGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m IOMutex[Settling]
		m.Lock()
		if m.TryLock() {
			t.Fatal("it is taken twice")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		gaveUp, got := make(chan error, 1), make(chan struct{})
		go func() { gaveUp <- m.LockContext(ctx) }()
		go func() {
			defer close(got)
			if err := m.LockContext(t.Context()); err != nil {
				t.Error(err)
				return
			}
			m.Unlock()
		}()
		if err := <-gaveUp; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a waiter whose context has ended: %v", err)
		}
		m.Unlock()
		<-got
		if err := m.LockContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the lock is free, but the context has ended: %v", err)
		}
	})
}

// One holds it at a time.
func TestIOMutexExcludes(t *testing.T) {
	var m IOMutex[Settling]
	var all sync.WaitGroup
	n := 0
	for range 8 {
		all.Go(func() {
			for range 1000 {
				m.Lock()
				n++
				m.Unlock()
			}
		})
	}
	all.Wait()
	if n != 8000 {
		t.Errorf("counted to %d, want 8000", n)
	}
}
