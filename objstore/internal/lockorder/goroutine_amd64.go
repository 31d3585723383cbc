//go:build lockorder

package lockorder

import (
	"slices"
	"sync"
)

// descriptor returns the 8 bytes at an offset of the calling goroutine's descriptor in the runtime
// (type g), whose address is in the thread's local storage.
func descriptor(off uintptr) uint64

// idOffset is where a goroutine's descriptor has its ID: at the only offset where those of several
// goroutines do. 0: nowhere that is known.
var idOffset = sync.OnceValue(func() uintptr {
	const end = 256 // a descriptor is longer
	var offs []uintptr
	for off := uintptr(8); off < end; off += 8 {
		offs = append(offs, off)
	}
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			id := slowGoroutine()
			offs = slices.DeleteFunc(offs, func(off uintptr) bool { return descriptor(off) != id })
		})
		g.Wait()
	}
	if len(offs) != 1 {
		return 0
	}
	return offs[0]
})

// goroutine returns the ID of the calling goroutine. Each lock asks for it three times, and the walk
// of the stack of slowGoroutine would make the tests of the store ten times as long.
func goroutine() uint64 {
	if off := idOffset(); off > 0 {
		return descriptor(off)
	}
	return slowGoroutine()
}
