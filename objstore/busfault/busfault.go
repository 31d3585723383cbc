// Package busfault keeps a process alive when a page of a mapped file cannot be provided.
//
// A store to a page of a hole on a full file system, or a load from a page on a bad sector, raises
// SIGBUS. On a goroutine of its own, a program can turn that into an error with
// [debug.SetPanicOnFault]. A library that accesses mapped files on its own goroutines ends the
// whole process: badger does (memtable.go, table/table.go, v4.9.6).
//
// [Absorb] installs a signal handler before Go's. It maps an empty private page in place of the
// missing one and counts it; the instruction is repeated and the library continues, with content
// that is lost when the file is closed. The library's user compares [Absorbed] before and after,
// and from then on trusts neither the library's answers nor its files:
//
//	fault at addr --> BUS_ADRERR? --no--------------------------------.
//	                      |                                           |
//	                  in the arena of Map, or in the program? --yes---+--> Go's handler: a panic, or the end
//	                      | no                                        |
//	                  mmap(page, private, zeroes) --fails-------------'
//	                      |
//	                  count it, return, do the instruction again
//
// Memory whose faults must be seen, such as a journal's, is mapped by [Map], which the handler
// ignores.
package busfault

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"varve/objstore/procmaps"
)

// exempt are the address ranges whose faults go to Go's handler: start and end of the arena, then
// of the program's own image, whose pages must not become zeroes either. The handler reads them.
var exempt [4]uintptr //nolint:unused // handler_amd64.s reads it

// absorbed counts the pages that the handler replaced.
var absorbed uint64

var install = sync.OnceValue(func() error {
	if err := reserve(); err != nil {
		return err
	}
	low, high, err := image()
	if err != nil {
		return err
	}
	base := uintptr(maps.base)
	exempt = [4]uintptr{base, base + arenaSize, low, high}
	return installHandler()
})

// Absorb installs the handler, for the whole process. On other processors than x86-64 it returns
// [errors.ErrUnsupported].
func Absorb() error { return install() }

// Absorbed returns the number of pages that the handler has replaced.
func Absorbed() uint64 { return atomic.LoadUint64(&absorbed) }

// image returns the addresses of the program's own file in memory.
func image() (low, high uintptr, err error) {
	err = procmaps.Program(func(m procmaps.Mapping) error {
		if low == 0 {
			low = m.Start
		}
		high = m.End
		return nil
	})
	return low, high, err
}

// arenaSize is address space, not memory: 65,536 windows of a journal.
const arenaSize = 64 << 30

// arena allocates address ranges for mappings.
type arena struct {
	mu   sync.Mutex
	base unsafe.Pointer
	used uintptr                  // what was handed out once, from base on, in bytes
	free map[int][]unsafe.Pointer // freed, by length in bytes
}

var maps = arena{free: map[int][]unsafe.Pointer{}}

// reserve reserves the address space, once. That may fail if address space is limited.
var reserve = sync.OnceValue(func() error {
	base, err := unix.MmapPtr(-1, 0, nil, arenaSize, unix.PROT_NONE, reserved)
	if err != nil {
		return fmt.Errorf("reserve %d bytes of address space: %w", arenaSize, err)
	}
	maps.base = base
	// After mlockall(MCL_FUTURE) it would count as locked memory.
	_ = unix.Munlock(unsafe.Slice((*byte)(base), arenaSize))
	return nil
})

const reserved = unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_NORESERVE

func (a *arena) take(length int) (unsafe.Pointer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if free := a.free[length]; len(free) > 0 {
		a.free[length] = free[:len(free)-1]
		return free[len(free)-1], nil
	}
	if a.used+uintptr(length) > arenaSize {
		return nil, unix.ENOMEM
	}
	p := unsafe.Add(a.base, a.used)
	a.used += uintptr(length)
	return p, nil
}

func (a *arena) give(p unsafe.Pointer, length int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free[length] = append(a.free[length], p)
}

// Map maps length bytes at off of the open file fd for reading and writing, shared with the file.
// Both are multiples of the page size. Go handles faults in the mapping. The caller passes the
// whole slice to [Unmap].
func Map(fd int, off int64, length int) ([]byte, error) {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	if page := os.Getpagesize(); length <= 0 || length%page != 0 {
		return nil, fmt.Errorf("length %d is not a multiple of %d: %w", length, page, unix.EINVAL)
	}
	if reserve() != nil { // then there is no handler either, and one place is as good as another
		return unix.Mmap(fd, off, length, prot, unix.MAP_SHARED)
	}
	p, err := maps.take(length)
	if err != nil {
		return nil, err
	}
	if _, err := unix.MmapPtr(fd, off, p, uintptr(length), prot, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		maps.give(p, length)
		return nil, err
	}
	return unsafe.Slice((*byte)(p), length), nil
}

// Unmap ends a mapping of [Map].
func Unmap(b []byte) error {
	if reserve() != nil {
		return unix.Munmap(b)
	}
	p := unsafe.Pointer(unsafe.SliceData(b))
	if _, err := unix.MmapPtr(-1, 0, p, uintptr(len(b)), unix.PROT_NONE, reserved|unix.MAP_FIXED); err != nil {
		return err
	}
	maps.give(p, len(b))
	return nil
}
