package fs

import (
	"context"
	"errors"
	"log/slog"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// errno is the only place where errors become errno values for the kernel. An error that already is
// an errno value passes unchanged.
func errno(err error) unix.Errno {
	var e unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.Is(err, objstore.ErrNotFound):
		return unix.ENOENT
	case errors.Is(err, objstore.ErrNoSpace):
		return unix.ENOSPC
	case errors.Is(err, objstore.ErrReadOnly):
		return unix.EROFS
	case errors.Is(err, objstore.ErrInUse):
		return unix.EBUSY
	case errors.Is(err, objstore.ErrExists):
		return unix.EEXIST
	case errors.Is(err, objstore.ErrInvalid):
		return unix.EINVAL
	case errors.Is(err, objstore.ErrClosed):
		return unix.ENODEV
	case errors.Is(err, objstore.ErrCorrupt):
		return unix.EIO
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return unix.EINTR
	case errors.As(err, &e):
		return e
	}
	return unix.EIO
}

// fail translates err, and logs errors that a user could not explain from the errno alone.
func (t *tree) fail(op, path string, err error) unix.Errno {
	e := errno(err)
	switch e {
	case 0, unix.ENOENT, unix.EINTR, unix.EPERM, unix.EROFS, unix.EFBIG, unix.ENXIO:
	default:
		t.log.LogAttrs(context.Background(), slog.LevelWarn, "request failed",
			slog.String("op", op), slog.String("file", path), slog.String("errno", unix.ErrnoName(e)),
			slog.String("error", err.Error()))
	}
	return e
}
