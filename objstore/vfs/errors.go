package vfs

import "errors"

var (
	// ErrLocked says that another process, or another user in this one, holds the lock.
	ErrLocked = errors.New("locked")
	// ErrCut says that in a Mem the power is off, or the process dead.
	ErrCut = errors.New("cut off")
)
