package vfs

import "errors"

// ErrLocked: another process, or another user in this one, holds the lock.
var ErrLocked = errors.New("locked")
