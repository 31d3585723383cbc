package queuethread_test

import (
	"strings"
	"sync"
	"testing"

	"varve/objstore/internal/lockorder"
	"varve/objstore/queuethread"
)

func TestViolations(t *testing.T) {
	var mu sync.Mutex
	var found []string
	stop := queuethread.Watch(func(v string) {
		mu.Lock()
		defer mu.Unlock()
		found = append(found, v)
	})
	defer stop()
	var m lockorder.IOMutex[lockorder.Settling]
	lock := func() { m.Lock(); m.Unlock() } //nolint:staticcheck // only that it is taken matters
	lock()
	queuethread.Blocks("a read")
	if len(found) > 0 {
		t.Fatalf("outside of Run: %q", found)
	}
	queuethread.Run(func() {
		queuethread.Run(func() {})
		lock()
		var other sync.WaitGroup
		other.Go(func() { queuethread.Blocks("another goroutine's read") })
		other.Wait()
	})
	if len(found) != 1 || !strings.HasPrefix(found[0], "a lock that is held over I/O on a queue's thread:") ||
		!strings.Contains(found[0], "TestViolations") {
		t.Fatalf("inside of Run: %q", found)
	}
	queuethread.Blocks("a read")
	stop()
	queuethread.Run(lock)
	if len(found) != 1 {
		t.Fatalf("after Run, and without a watcher: %q", found[1:])
	}
}
