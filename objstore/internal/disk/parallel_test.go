package disk

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParallel(t *testing.T) {
	var none []int
	must(t, Parallel(none, func(int) error { return errors.New("called") }))
	items := make([]int, 100)
	for i := range items {
		items[i] = i
	}
	var sum atomic.Int64
	must(t, Parallel(items, func(i int) error { sum.Add(int64(i)); return nil }))
	if sum.Load() != 4950 {
		t.Errorf("sum %d", sum.Load())
	}
	// An error of a disk that fails is not hidden by one of a disk that is full.
	var both sync.WaitGroup
	both.Add(2)
	err := Parallel([]error{unix.ENOSPC, unix.EIO}, func(err error) error {
		both.Done()
		both.Wait()
		return err
	})
	if !errors.Is(err, unix.EIO) {
		t.Errorf("%v", err)
	}
	var calls atomic.Int64
	err = Parallel(items, func(int) error { calls.Add(1); return unix.EIO })
	if err == nil || calls.Load() > maxParallel {
		t.Errorf("%d calls after an error: %v", calls.Load(), err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q", err)
	}
}

// Of several errors the worst counts: that one file had no room, or no memory, must not hide that
// another was not synced.
func TestParallelReturnsTheWorstError(t *testing.T) {
	for _, mild := range []error{unix.ENOSPC, unix.ENOMEM, unix.EMFILE} {
		for _, first := range []int{0, 1} {
			var both sync.WaitGroup
			both.Add(2)
			err := Parallel([]int{0, 1}, func(i int) error {
				both.Done()
				both.Wait()
				if i == first {
					return mild
				}
				return SyncError(unix.EIO)
			})
			if !errors.Is(err, unix.EIO) {
				t.Errorf("%v and EIO: %v", mild, err)
			}
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
