package vfs

import "errors"

var (
	// ErrLocked means that another process, or another user in this one, holds the lock.
	ErrLocked = errors.New("locked")
	// ErrCut means that in a Mem the power is off, or the process dead.
	ErrCut = errors.New("cut off")
)
