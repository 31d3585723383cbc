package objstore

import (
	"sync"
	"sync/atomic"
	"testing"
)

// Whoever takes the channel before looking at the condition misses no change.
func TestEvent(t *testing.T) {
	var e event
	e.fire() // nobody waits
	a, b := e.next(), e.next()
	e.fire()
	<-a
	<-b
	select {
	case <-e.next():
		t.Fatal("the event was not fired since")
	default:
	}
	var turn atomic.Int64
	var players sync.WaitGroup
	for p := range int64(4) {
		players.Go(func() {
			for done := 0; done < 1000; {
				changed := e.next()
				if turn.Load()%4 != p {
					<-changed
					continue
				}
				done++
				turn.Add(1)
				e.fire()
			}
		})
	}
	players.Wait()
}
