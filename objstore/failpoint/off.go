//go:build !failpoint

package failpoint

import "time"

// Here marks that a point is reached.
func Here(Point) {}

// Err returns the error with which an operation should fail, or nil.
func Err(Point) error { return nil }

// Limit returns a time limit, divided by VARVE_FAILPOINT_HASTE.
func Limit(d time.Duration) time.Duration { return d }
