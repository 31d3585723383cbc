//go:build !lockorder

package lockorder

import "sync"

// Mutex is a sync.Mutex that stands at L in the order of locks. It guards state in memory and is
// never held over I/O.
type Mutex[L Lock] struct{ sync.Mutex }

func taking[L Lock](any)   {}
func taken[L Lock](any)    {}
func released[L Lock](any) {}
