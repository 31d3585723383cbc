package vfs

import "errors"

var (
	// ErrLocked: another process, or another user in this one, holds the lock.
	ErrLocked = errors.New("locked")
	// ErrCut: the power is off, or the process dead, in a Mem.
	ErrCut = errors.New("cut off")
)
