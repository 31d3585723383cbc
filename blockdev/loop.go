package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"varve/uring/queue"
)

// Loop is a file as a disk, byte for byte, as the kernel's loop driver does it.
type Loop struct {
	file *os.File
	fd   int
	lim  Limits
	cost flushCost
}

// LoopOptions for OpenLoop.
type LoopOptions struct {
	BlockSize int  // 512 (also when 0) or 4096
	ReadOnly  bool // open the file for reading only
	Buffered  bool // go through the page cache instead of O_DIRECT
}

// OpenLoop opens a file or block device as a disk of its size, less what is left over from the last block. The
// caller closes it after the device has stopped.
func OpenLoop(path string, o LoopOptions) (*Loop, error) {
	if o.BlockSize == 0 {
		o.BlockSize = sectorSize
	}
	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY
	}
	if !o.Buffered {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("open loop file: %w", err)
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("size of loop file: %w", err), f.Close())
	}
	l := &Loop{file: f, fd: int(f.Fd()), lim: Limits{
		Size: size &^ int64(o.BlockSize-1), BlockSize: o.BlockSize, ReadOnly: o.ReadOnly,
		Discard: !o.ReadOnly, Cache: true, DMAAlign: sectorSize,
	}}
	if err := l.lim.validate(); err != nil {
		return nil, errors.Join(fmt.Errorf("loop file %s: %w", path, err), f.Close())
	}
	return l, nil
}

// Close closes the file.
func (l *Loop) Close() error { return l.file.Close() }

// Limits implements Target.
func (l *Loop) Limits() Limits { return l.lim }

// Files implements FileTarget.
func (l *Loop) Files() []int { return []int{l.fd} }

// NewHandler implements Target.
func (l *Loop) NewHandler() queue.Handler { return loopHandler{l} }

type loopHandler struct{ *Loop }

func (h loopHandler) Start(r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpRead, queue.OpWrite:
		r.Secondary(h.fd, r.Off, 0, r.Len)
		if r.FUA {
			r.SetFlags(unix.RWF_DSYNC)
		}
		return queue.Submit, nil
	case queue.OpFlush:
		if h.cost.quick() {
			return queue.Answer, h.flush()
		}
		return queue.Handoff, nil
	case queue.OpDiscard, queue.OpWriteZeroes:
		return queue.Handoff, nil
	}
	return queue.Answer, unix.EOPNOTSUPP
}

// flush is timed: see flushCost.
func (h loopHandler) flush() error {
	start := time.Now()
	err := unix.Fdatasync(h.fd)
	h.cost.took(time.Since(start))
	return err
}

func (h loopHandler) Finish(_ *queue.Request, err error) (queue.Action, error) {
	return queue.Answer, err
}

func (h loopHandler) Work(_ context.Context, r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpFlush:
		return queue.Answer, h.flush()
	case queue.OpDiscard:
		err := unix.Fallocate(h.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Off, int64(r.Len))
		return queue.Answer, err
	case queue.OpWriteZeroes:
		return queue.Answer, h.zero(r)
	case queue.OpRead, queue.OpWrite:
	}
	return queue.Answer, unix.EOPNOTSUPP
}

// zero makes a range read as zeroes. A file system that can't zero a range in place gets a hole, and then its
// space back where the request wants it kept.
func (h loopHandler) zero(r *queue.Request) error {
	const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	mode := uint32(punch)
	if r.NoUnmap {
		mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	}
	err := unix.Fallocate(h.fd, mode, r.Off, int64(r.Len))
	if errors.Is(err, unix.EOPNOTSUPP) && r.NoUnmap {
		if err = unix.Fallocate(h.fd, punch, r.Off, int64(r.Len)); err == nil {
			err = unix.Fallocate(h.fd, unix.FALLOC_FL_KEEP_SIZE, r.Off, int64(r.Len))
		}
	}
	if err == nil && r.FUA {
		err = unix.Fdatasync(h.fd)
	}
	return err
}

func (h loopHandler) Drop(*queue.Request) {}
