//go:build lockorder && !amd64

package lockorder

func goroutine() uint64 { return slowGoroutine() }
