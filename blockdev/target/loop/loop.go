// Package loop is a file or block device as a disk, byte for byte, as the kernel's loop driver
// serves it: reads and writes are one secondary each, FUA is RWF_DSYNC, and syncs, discards and
// zeroes are calls that a worker makes (package backing).
//
// A file that grows is a disk that can grow (Measure, Fits). A file that shrinks leaves the disk as it
// is: what is read beyond the file's end is an error.
package loop

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/backing"
	"varve/uring/queue"
)

// Loop is a disk whose bytes are those of a file.
type Loop struct {
	file *backing.File
	fd   int
	lim  target.Limits
	size atomic.Int64 // of the file, in bytes, as Measure saw it last
}

// Options for Open.
type Options struct {
	BlockSize int  // 512 or 4096; 0: what the file wants, 512 if it does not matter
	ReadOnly  bool // open the file for reading only
	Buffered  bool // go through the page cache instead of O_DIRECT
}

// Open opens a file or block device as a disk of its size. Where the file system has no O_DIRECT, the
// disk goes through the page cache. The caller closes it after the device has stopped.
func Open(path string, o Options) (*Loop, error) {
	f, err := backing.Open(path, backing.Options{ReadOnly: o.ReadOnly, Buffered: o.Buffered})
	if err != nil {
		return nil, err
	}
	block, err := backing.BlockSize(o.BlockSize, f)
	l := &Loop{file: f, fd: f.FD(), lim: target.Limits{
		Size: f.Size(), BlockSize: block, ReadOnly: o.ReadOnly,
		Discard: f.Discards(), Zeroes: !o.ReadOnly, Cache: true, DMAAlign: f.MemAlign(),
	}}
	l.lim.EnsureDefaults()
	if err == nil {
		err = l.lim.Validate()
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	l.size.Store(f.Size())
	return l, nil
}

// Close closes the file.
func (l *Loop) Close() error { return l.file.Close() }

// Direct reports whether the disk goes past the page cache.
func (l *Loop) Direct() bool { return l.file.Direct() }

// Limits implements target.Target.
func (l *Loop) Limits() target.Limits { return l.lim }

// Measure asks for the size of the disk that the file now has room for, in bytes.
func (l *Loop) Measure() (int64, error) {
	size, err := l.file.Measure()
	if err != nil {
		return 0, err
	}
	l.size.Store(size)
	return size - size%int64(l.lim.BlockSize), nil
}

// Fits implements target.Resizer: the file has as many bytes.
func (l *Loop) Fits(size int64) error {
	if have := l.size.Load(); size > have {
		return fmt.Errorf("%w: %d bytes; %s has %d", queue.ErrInvalid, size, l.file.Path(), have)
	}
	return nil
}

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
		if h.file.InMemory() {
			return queue.Answer, h.file.Sync()
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
		return queue.Answer, h.file.Sync()
	case queue.OpDiscard:
		return queue.Answer, h.file.Discard(r.Off, int64(r.Len))
	case queue.OpWriteZeroes:
		err := h.file.Zero(r.Off, int64(r.Len), r.NoUnmap)
		if err == nil && r.FUA {
			err = h.file.Sync()
		}
		return queue.Answer, err
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
}

func (h handler) Drop(*queue.Request) {}
