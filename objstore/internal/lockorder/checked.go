//go:build lockorder

package lockorder

import (
	"fmt"
	"slices"
	"strconv"
	"sync"

	"varve/objstore/queuethread"
)

// Mutex is a sync.Mutex that stands at L in the order of locks. It panics when that is broken.
type Mutex[L Lock] struct{ mu sync.Mutex }

// Lock takes the lock.
func (m *Mutex[L]) Lock() {
	taking[L](m) // before waiting: a panic tells more than two goroutines that wait for each other
	m.mu.Lock()
	taken[L](m)
}

// TryLock takes the lock if it is free. It does not wait, and so may be out of order.
func (m *Mutex[L]) TryLock() bool {
	if !m.mu.TryLock() {
		return false
	}
	taken[L](m)
	return true
}

// Unlock releases the lock, on the goroutine that has taken it.
func (m *Mutex[L]) Unlock() {
	released[L](m)
	m.mu.Unlock()
}

// held is a lock that a goroutine holds.
type held struct {
	lock any // *Mutex or *IOMutex
	rank int
	name string
}

// goroutines are the locks held, by goroutine, in the order in which they were taken.
var goroutines struct {
	sync.Mutex
	held map[uint64][]held
}

// taking panics if this goroutine may not wait for a lock.
func taking[L Lock](lock any) {
	var l L
	rank, name := l.line()
	goroutines.Lock()
	defer goroutines.Unlock()
	for _, h := range goroutines.held[goroutine()] {
		if h.lock == lock {
			panic(fmt.Sprintf("lock order: %s is taken by the goroutine that holds it", name))
		}
		if h.rank >= rank {
			panic(fmt.Sprintf("lock order: %s is taken while %s is held", name, h.name))
		}
	}
}

// taken notes that this goroutine holds a lock.
func taken[L Lock](lock any) {
	var l L
	rank, name := l.line()
	goroutines.Lock()
	defer goroutines.Unlock()
	if goroutines.held == nil {
		goroutines.held = map[uint64][]held{}
	}
	id := goroutine()
	goroutines.held[id] = append(goroutines.held[id], held{lock, rank, name})
}

// released notes that this goroutine releases a lock.
func released[L Lock](lock any) {
	goroutines.Lock()
	defer goroutines.Unlock()
	id := goroutine()
	all := goroutines.held[id]
	i := slices.IndexFunc(all, func(h held) bool { return h.lock == lock })
	if i < 0 {
		var l L
		_, name := l.line()
		panic(fmt.Sprintf("lock order: %s is given up by a goroutine that does not hold it", name))
	}
	if all = slices.Delete(all, i, i+1); len(all) == 0 {
		delete(goroutines.held, id)
	} else {
		goroutines.held[id] = all
	}
}

// slowGoroutine returns the ID of the calling goroutine, as its stack says.
func slowGoroutine() uint64 {
	id, err := strconv.ParseUint(queuethread.Goroutine(), 10, 64)
	if err != nil {
		panic(err) // the runtime writes stacks in another form
	}
	return id
}
