// Package queuethread proves that nothing on a queue's thread waits for I/O.
//
// A device's queue is served by one thread. What that thread calls for a request (Plan, Release,
// Reserve, Commit, Abort, TryZero and TryFlush of a volume) must not do I/O, nor wait for a lock
// that may be held over I/O: all other requests of the queue would wait too. Locks of the engine are
// therefore of two kinds:
//
//	lockorder.Mutex     guards state in memory; never held over I/O, so that a wait for it is short
//	lockorder.IOMutex   serialises I/O; held over it, and never waited for on a queue's thread
//
// A test watches (Watch) and runs what a queue would call in Run. Every file operation of a store,
// every look-up in its index and every wait for an IOMutex reports itself by Blocks; on a goroutine
// inside Run that is a violation. That no Mutex is held over I/O is a test of package objstore
// (TestNoStateLockIsHeldOverFileOperations). The two together leave nothing to wait for but memory,
// the processor, and faults of mapped pages, which a test of the journal counts.
//
// Without a watcher, which is the case in every program, Blocks costs the load of a pointer.
package queuethread

import (
	"bytes"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

var watching atomic.Pointer[watcher]

type watcher struct {
	report func(string)
	inside atomic.Int64 // how many goroutines are inside Run
	queues sync.Map     // they, by ID
}

// Watch reports every violation, with its stack, until stop. It is called from any goroutine. One test at a time watches.
func Watch(report func(violation string)) (stop func()) {
	w := &watcher{report: report}
	if !watching.CompareAndSwap(nil, w) {
		panic("queuethread: somebody watches already")
	}
	return func() { watching.CompareAndSwap(w, nil) }
}

// Run runs f as a queue's thread would. It may be nested.
func Run(f func()) {
	w := watching.Load()
	if w == nil {
		f()
		return
	}
	id := Goroutine()
	if _, nested := w.queues.LoadOrStore(id, true); !nested {
		w.inside.Add(1)
		defer func() {
			w.queues.Delete(id)
			w.inside.Add(-1)
		}()
	}
	f()
}

// Unwatched runs f on a queue's thread without a watch: whatever it does is known not to wait, as
// file operations on a file system in memory are.
func Unwatched(f func()) {
	if w := watching.Load(); w != nil && w.inside.Load() > 0 {
		id := Goroutine()
		if _, queue := w.queues.LoadAndDelete(id); queue {
			defer w.queues.Store(id, true)
		}
	}
	f()
}

// Blocks says that the caller is about to do what may block on I/O.
func Blocks(what string) {
	if w := watching.Load(); w != nil {
		w.check(what)
	}
}

func (w *watcher) check(what string) {
	if w.inside.Load() == 0 { // to find out who calls takes microseconds
		return
	}
	if _, queue := w.queues.Load(Goroutine()); queue {
		w.report(fmt.Sprintf("%s on a queue's thread:\n%s", what, debug.Stack()))
	}
}

// Goroutine returns the ID of the calling goroutine, from the first line of its stack: "goroutine
// 18 [running]:". It takes microseconds, and is for checks in tests.
func Goroutine() string {
	var b [64]byte
	fields := bytes.Fields(b[:runtime.Stack(b[:], false)])
	return string(fields[1])
}
