//go:build lockorder

package lockorder

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// panicOf returns what f panics with; "": it does not.
func panicOf(f func()) (said string) {
	defer func() {
		if p := recover(); p != nil {
			said = fmt.Sprint(p)
		}
	}()
	f()
	return ""
}

func TestOrderIsChecked(t *testing.T) {
	var (
		catalog      Mutex[Catalog]
		volume, twin Mutex[Volume]
		settling     IOMutex[Settling]
	)
	for name, c := range map[string]struct {
		take func()
		want string
	}{
		"in order":        {func() { settling.Lock(); catalog.Lock(); volume.Lock() }, ""},
		"again":           {func() { settling.Lock(); catalog.Lock(); catalog.Unlock(); catalog.Lock(); volume.Lock() }, ""},
		"tried":           {func() { volume.Lock(); catalog.TryLock(); settling.TryLock() }, ""},
		"out of order":    {func() { volume.Lock(); catalog.Lock() }, "catalog.mu is taken while volume.mu is held"},
		"behind a try":    {func() { catalog.TryLock(); settling.Lock() }, "volume.settleMu is taken while catalog.mu is held"},
		"with a context":  {func() { volume.Lock(); _ = settling.LockContext(t.Context()) }, "volume.settleMu is taken while volume.mu is held"},
		"of two volumes":  {func() { volume.Lock(); twin.Lock() }, "volume.mu is taken while volume.mu is held"},
		"by their holder": {func() { volume.Lock(); volume.Lock() }, "volume.mu is taken by the goroutine that holds it"},
		"given up twice":  {func() { volume.Lock(); volume.Unlock(); volume.Unlock() }, "volume.mu is given up by a goroutine that does not hold it"},
	} {
		done := make(chan string)
		go func() { done <- panicOf(c.take) }() // a goroutine of its own, which ends with what it holds
		if said := <-done; said != c.want && (c.want == "" || !strings.Contains(said, c.want)) {
			t.Errorf("locks %s: panic %q, want %q", name, said, c.want)
		}
		catalog, volume, twin, settling = Mutex[Catalog]{}, Mutex[Volume]{}, Mutex[Volume]{}, IOMutex[Settling]{}
	}
}

// The ID that is read from the runtime's descriptor is that of the stack.
func TestGoroutine(t *testing.T) {
	seen := map[uint64]bool{}
	var g sync.WaitGroup
	for range 20 {
		g.Go(func() {
			id := goroutine()
			if id != slowGoroutine() || seen[id] {
				t.Errorf("%d is not the ID of goroutine %d, or that of another one", id, slowGoroutine())
			}
			seen[id] = true
		})
		g.Wait()
	}
}
