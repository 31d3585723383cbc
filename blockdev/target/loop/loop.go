// Package loop is a file or block device as a disk, byte for byte, as the kernel's loop driver
// serves it.
package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/objstore/vfs/fstype"
	"varve/uring/queue"
)

// Loop is a disk whose bytes are those of a file.
type Loop struct {
	file     *os.File
	fd       int
	lim      target.Limits
	inMemory bool // a sync of the file waits for nothing
}

// Options for Open.
type Options struct {
	BlockSize int  // 512 (also when 0) or 4096
	ReadOnly  bool // open the file for reading only
	Buffered  bool // go through the page cache instead of O_DIRECT
}

// Open opens a file or block device as a disk of its size, less what is left over from the last
// block. The caller closes it after the device has stopped.
func Open(path string, o Options) (*Loop, error) {
	if o.BlockSize == 0 {
		o.BlockSize = target.SectorSize
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
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("size of loop file: %w", err), f.Close())
	}
	l := &Loop{file: f, fd: int(f.Fd()), lim: target.Limits{
		Size: size &^ int64(o.BlockSize-1), BlockSize: o.BlockSize, ReadOnly: o.ReadOnly,
		Discard: !o.ReadOnly, Cache: true, DMAAlign: target.SectorSize,
	}}
	if err := l.lim.Validate(); err != nil {
		return nil, errors.Join(fmt.Errorf("loop file %s: %w", path, err), f.Close())
	}
	l.inMemory = inMemory(l.fd)
	return l, nil
}

// inMemory reports whether a sync of the file waits for nothing. A device's does, wherever its node
// is.
func inMemory(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && fstype.InMemory(fd)
}

// Close closes the file.
func (l *Loop) Close() error { return l.file.Close() }

// Limits implements target.Target.
func (l *Loop) Limits() target.Limits { return l.lim }

// NewPart implements target.Target.
func (l *Loop) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler { return handler{l} }, FDs: []int{l.fd}}, nil
}

type handler struct{ *Loop }

func (h handler) Start(r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpRead, queue.OpWrite:
		r.Secondary(h.fd, r.Off, 0, r.Len)
		if r.FUA {
			r.SetFlags(unix.RWF_DSYNC)
		}
		return queue.Submit, nil
	case queue.OpFlush:
		if h.inMemory {
			return queue.Answer, unix.Fdatasync(h.fd)
		}
		return queue.Handoff, nil
	case queue.OpDiscard, queue.OpWriteZeroes:
		return queue.Handoff, nil
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
}

func (h handler) Finish(_ *queue.Request, err error) (queue.Action, error) { return queue.Answer, err }

func (h handler) Work(_ context.Context, r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpFlush:
		return queue.Answer, unix.Fdatasync(h.fd)
	case queue.OpDiscard:
		return queue.Answer, unix.Fallocate(h.fd, punch, r.Off, int64(r.Len))
	case queue.OpWriteZeroes:
		return queue.Answer, h.zero(r)
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
}

// punch is the mode of fallocate(2) that makes a hole.
const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE

// zero makes a range read as zeroes. A file system that can't zero a range in place makes a hole,
// and then allocates the space again where the request wants it kept.
func (h handler) zero(r *queue.Request) error {
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

func (h handler) Drop(*queue.Request) {}
