package objstore

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"varve/objstore/internal/journal"
	"varve/objstore/vfs"
)

// A journal that could not be extended ahead of its records is extended ahead of the next one, when
// there is room again, and not only once a request finds no room in it.
func TestExtenderTriesAgain(t *testing.T) {
	r := newRig(t, Options{})
	must(t, r.s.Close())
	var full atomic.Bool
	var tries atomic.Int64
	r.open(func(op vfs.Op) error {
		if op.Kind == vfs.OpAllocate && strings.HasPrefix(op.Name, journal.Dir) && full.Load() {
			tries.Add(1)
			return syscall.ENOSPC
		}
		return nil
	})
	v := r.volume("a", 1<<20)
	wants := func() (yes, asked bool) {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.active().journal.WantsWindow(), v.extending
	}
	record := func() { must(t, v.Zero(0, 4096)) }
	full.Store(true)
	for yes, _ := wants(); !yes; yes, _ = wants() {
		record()
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	until("the journal was not extended", func() bool { return tries.Load() > 0 })
	until("the extender still counts as asked after an error", func() bool { _, asked := wants(); return !asked })
	full.Store(false)
	record()
	until("the journal is not extended again", func() bool { yes, _ := wants(); return !yes })
}
