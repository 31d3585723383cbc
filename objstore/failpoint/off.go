//go:build !failpoint

package failpoint

// Here passes a point.
func Here(Point) {}

// Err is why an operation should fail.
func Err(Point) error { return nil }
