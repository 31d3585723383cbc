package blockdev

import (
	"errors"

	"golang.org/x/sys/unix"

	"varve/uring/queue"
)

// errnoOf is the one translation of an error into the result of a request, 0 for nil, else a
// negated errno. The driver passes it through errno_to_blk_status (block/blk-core.c, 7.3), which
// knows few and takes all others as EIO; those that mean something else there than here (EAGAIN,
// EBUSY, EINVAL, ENODEV) become EIO too.
func errnoOf(err error) int32 {
	if err == nil {
		return 0
	}
	if s := (*queue.StatusError)(nil); errors.As(err, &s) {
		return -int32(s.Errno)
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return -int32(unix.ENOSPC)
	case errors.Is(err, unix.EROFS):
		return -int32(unix.EROFS)
	case errors.Is(err, unix.EOPNOTSUPP):
		return -int32(unix.EOPNOTSUPP)
	case errors.Is(err, unix.ENOMEM):
		return -int32(unix.ENOMEM)
	case errors.Is(err, unix.ETIMEDOUT):
		return -int32(unix.ETIMEDOUT)
	}
	return -int32(unix.EIO)
}
