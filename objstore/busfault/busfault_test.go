package busfault

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// shrunk is a file of some pages that was cut to one page after it was mapped: a touch of the
// others is SIGBUS.
func shrunk(t *testing.T, pages int, mapper func(fd, length int) ([]byte, error), unmap func([]byte) error) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(int64(pages) * 4096); err != nil {
		t.Fatal(err)
	}
	b, err := mapper(int(f.Fd()), pages*4096)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unmap(b); err != nil {
			t.Error(err)
		}
	})
	b[0] = 1
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	return b
}

func plainMap(fd, length int) ([]byte, error) {
	return unix.Mmap(fd, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func ownMap(fd, length int) ([]byte, error) { return Map(fd, 0, length) }

func absorb(t *testing.T) {
	t.Helper()
	if err := Absorb(); err != nil {
		t.Skip("no handler for this processor: ", err)
	}
}

func TestAbsorb(t *testing.T) {
	absorb(t)
	const pages = 64
	b := shrunk(t, pages, plainMap, unix.Munmap)
	before := Absorbed()
	for i := 1; i < pages; i++ {
		if b[i*4096+17] != 0 {
			t.Fatalf("page %d is not empty", i)
		}
		b[i*4096+17] = byte(i)
	}
	if b[0] != 1 {
		t.Fatal("the page that the file has is not the file's any more")
	}
	for i := 1; i < pages; i++ {
		if b[i*4096+17] != byte(i) {
			t.Fatalf("page %d forgot what was written to it", i)
		}
	}
	if n := Absorbed() - before; n != pages-1 {
		t.Fatalf("%d pages replaced, not %d", n, pages-1)
	}
}

// Faults on many threads at once, while the garbage collector stops and scans them.
func TestAbsorbOnManyThreads(t *testing.T) {
	absorb(t)
	const pages, workers = 512, 8
	before := Absorbed()
	var wg sync.WaitGroup
	for range workers {
		b := shrunk(t, pages, plainMap, unix.Munmap)
		wg.Go(func() {
			for i := 1; i < pages; i++ {
				copy(b[i*4096:(i+1)*4096], make([]byte, 4096)) // by memmove's wide stores
				b[i*4096] = byte(i)
				if i%64 == 0 {
					debug.FreeOSMemory()
				}
			}
			for i := 1; i < pages; i++ {
				if b[i*4096] != byte(i) {
					t.Errorf("page %d forgot what was written to it", i)
				}
			}
		})
	}
	wg.Wait()
	if n := Absorbed() - before; n != workers*(pages-1) {
		t.Fatalf("%d pages replaced, not %d", n, workers*(pages-1))
	}
}

// What is mapped by Map, and any fault that is not SIGBUS, stays a panic on the goroutine that
// asked for one.
func TestOthersFaults(t *testing.T) {
	absorb(t)
	before := Absorbed()
	own := shrunk(t, 2, ownMap, Unmap)
	none, err := unix.Mmap(-1, 0, 4096, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(none) }()
	if _, fault := touch(own[4096:]); !fault {
		t.Error("no panic at a page of Map that the file lacks")
	}
	if _, fault := touch(none); !fault {
		t.Error("no panic at a page without access")
	}
	if v, fault := touch(own); fault || v != 1 {
		t.Error("the file's own page is gone")
	}
	if n := Absorbed() - before; n != 0 {
		t.Errorf("%d pages replaced that were not to be", n)
	}
}

func touch(b []byte) (v byte, fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { fault = recover() != nil }()
	return b[0], false
}

func TestMapReusesAddresses(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	const length = 1 << 20
	if err := f.Truncate(2 * length); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		a, err := Map(int(f.Fd()), 0, length)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Map(int(f.Fd()), length, length)
		if err != nil {
			t.Fatal(err)
		}
		a[0], b[0] = byte(round), byte(round+100)
		got := make([]byte, 1)
		for off, want := range map[int64]byte{0: byte(round), length: byte(round + 100)} {
			if _, err := f.ReadAt(got, off); err != nil || got[0] != want {
				t.Fatalf("round %d: the file has %d at %d, not %d (%v)", round, got[0], off, want, err)
			}
		}
		used := maps.used
		if err := Unmap(a); err != nil {
			t.Fatal(err)
		}
		if err := Unmap(b); err != nil {
			t.Fatal(err)
		}
		if _, fault := touch(a); !fault {
			t.Fatal("an unmapped window can be read")
		}
		if round > 0 && maps.used != used {
			t.Fatalf("addresses are not used again")
		}
	}
	for _, length := range []int{0, -4096, 100} {
		if _, err := Map(int(f.Fd()), 0, length); err == nil {
			t.Errorf("a mapping of %d bytes", length)
		}
	}
	if _, err := Map(-1, 0, 4096); err == nil {
		t.Error("a mapping of no file")
	}
}

func TestImage(t *testing.T) {
	low, high, err := image()
	if err != nil || low == 0 || high <= low {
		t.Fatalf("%#x to %#x: %v", low, high, err)
	}
}
