package queue

import (
	"runtime"
	"sync"
)

// procs makes sure that Go's scheduler has a slot for each queue thread, which holds on to it while
// it waits for its own I/O, and two for everything else.
var procs struct {
	sync.Mutex
	queues int
}

func reserveProcs(queues int) {
	procs.Lock()
	defer procs.Unlock()
	procs.queues += queues
	// Raising GOMAXPROCS stops the world, so many devices raise it a few times only.
	if want, now := procs.queues+2, runtime.GOMAXPROCS(0); now < want {
		runtime.GOMAXPROCS(max(want, now+now/2))
	}
}

// releaseProcs does not lower GOMAXPROCS: that stops the world, and idle slots cost nothing.
func releaseProcs(queues int) {
	procs.Lock()
	procs.queues -= queues
	procs.Unlock()
}
