package objstore

import (
	"sync/atomic"
	"syscall"
	"testing"

	"varve/objstore/vfs"
)

// No descriptors or no memory left, at any operation and for a moment or a while, turns nothing read-only and is no
// damage: what was asked for fails at most, and when it is over everything works, without another opening.
func TestEveryPassingFault(t *testing.T) {
	const forAWhile = 40 // operations that fail in a row: more than one that is tried again
	stride := 17
	if crashCuts(t, 0) > 0 {
		stride = 1
	}
	for name, c := range map[string]struct {
		errno syscall.Errno
		fails int64
		kinds func(vfs.Kind) bool
	}{
		"EMFILE at once":     {syscall.EMFILE, 1, takesDescriptor},
		"EMFILE for a while": {syscall.EMFILE, forAWhile, takesDescriptor},
		"ENFILE for a while": {syscall.ENFILE, forAWhile, takesDescriptor},
		"ENOMEM at once":     {syscall.ENOMEM, 1, func(k vfs.Kind) bool { return k != vfs.OpDatasync }},
		"ENOMEM for a while": {syscall.ENOMEM, forAWhile, func(k vfs.Kind) bool { return k != vfs.OpDatasync && k != vfs.OpSyncDir }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tried := 0
			for n := int64(0); ; n += int64(stride) {
				w := fixedWorld(t, uint64(n))
				w.init()
				var count atomic.Int64
				w.setHook(func(op vfs.Op) error {
					if !c.kinds(op.Kind) {
						return nil
					}
					if i := count.Add(1) - 1; i < n || i >= n+c.fails {
						return nil
					}
					return c.errno
				})
				fixedWorkload(w)
				met := count.Load() > n
				w.setHook(nil)
				w.note("%v at operation %d, %d times", c.errno, n, c.fails)
				if w.s == nil {
					w.must(w.start())
				}
				if err := w.s.writeError(); err != nil {
					w.failf("read-only: %v", err)
				}
				w.opSettle()
				r, err := w.s.Check(t.Context(), nil)
				if err != nil || len(r.Damage) > 0 {
					w.failf("taken for damage: %+v (%v)", r, err)
				}
				w.reopen()
				w.must(w.stop())
				if !met {
					break
				}
				tried++
			}
			if t.Logf("%d operations failed", tried); tried == 0 {
				t.Error("nothing failed")
			}
		})
	}
}

// takesDescriptor says whether an operation needs a descriptor.
func takesDescriptor(k vfs.Kind) bool {
	return k == vfs.OpOpen || k == vfs.OpCreate || k == vfs.OpList || k == vfs.OpLock
}
