//go:build !failpoint

package failpoint

import "time"

// Here passes a point.
func Here(Point) {}

// Err is why an operation should fail.
func Err(Point) error { return nil }

// Limit is a time limit.
func Limit(d time.Duration) time.Duration { return d }
