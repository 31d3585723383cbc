package objstore

import (
	"errors"
	"log/slog"
	"os"
	"sync/atomic"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// ballastFile is a file whose bytes mean nothing: only the room that it takes counts.
const ballastFile = "ballast"

// ballast keeps some room of the disk in a file, for the time when others have taken the last byte:
// what gives room back needs some room itself. A collection writes the shortened list of a segment
// before it punches the segment, and the first time a new superblock; a deletion appends to the log
// of names. When one of these finds no room, the ballast is dropped, and made again when there is
// room once more.
//
// The file belongs to the room that writes leave free: it counts as free in the space account.
// Nothing relies on it. A store without one, because it was opened on a full disk or others were
// quicker to take what the ballast gave up, answers ErrNoSpace.
//
// Only drop and keep change the file, one at a time. They block and take no lock: a call that finds
// another one under way returns.
type ballast struct {
	fs   vfs.FS
	size int64 // bytes
	log  *slog.Logger

	busy atomic.Bool  // the file is being changed
	held atomic.Int64 // bytes that the file takes: size, or 0
}

// ballastSlack is what a ballast has beside the longest list of a segment, in bytes: for
// superblocks, frames of the log of names, and what the file system itself writes.
const ballastSlack = 128 << 10

// newBallast returns the ballast of a store with segments of that many bytes, and a reserve. It has
// no room until keep is called.
func newBallast(fs vfs.FS, segmentSize, reserve int64, log *slog.Logger) *ballast {
	list := segmentSize / disk.BlockSize * segment.ObjectSize // of the smallest objects
	size := disk.RoundUp(list+list/16+ballastSlack, disk.BlockSize)
	return &ballast{fs: fs, size: min(size, reserve/4/disk.BlockSize*disk.BlockSize), log: log}
}

// keep has the file take its room, if it does not and the disk has twice as much. The room that a
// process before this one has left is found again.
func (b *ballast) keep() {
	if b.held.Load() > 0 || b.size == 0 || !b.busy.CompareAndSwap(false, true) {
		return
	}
	defer b.busy.Store(false)
	used, err := b.fs.Used(ballastFile)
	if err == nil && used >= b.size {
		b.held.Store(b.size)
		return
	}
	if _, free, err := b.fs.Space(); err != nil || free < 2*b.size {
		return
	}
	if err := b.take(); err != nil && !errors.Is(disk.SpaceError(err), ErrNoSpace) {
		b.log.Debug("no room is kept for a full disk", "file", ballastFile, "error", err)
		return
	} else if err == nil {
		b.held.Store(b.size)
	}
}

// take allocates the file. After an error it takes no room.
func (b *ballast) take() error {
	f, err := b.fs.Open(ballastFile)
	if errors.Is(err, os.ErrNotExist) {
		f, err = b.fs.Create(ballastFile)
	}
	if err != nil {
		return err
	}
	if err = f.Allocate(0, b.size); err == nil {
		err = f.Datasync() // on btrfs that is when the room is taken for certain
	}
	if err != nil {
		_ = f.Truncate(0)
	}
	return errors.Join(err, f.Close())
}

// drop gives up the room, and reports whether there was any.
func (b *ballast) drop() bool {
	if b.held.Load() == 0 || !b.busy.CompareAndSwap(false, true) {
		return false
	}
	defer b.busy.Store(false)
	if b.held.Swap(0) == 0 {
		return false // another goroutine has done it meanwhile
	}
	f, err := b.fs.Open(ballastFile)
	if err == nil {
		if err = f.Truncate(0); err == nil {
			err = f.Datasync() // file systems hand freed blocks out again once that is durable
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		b.log.Warn("the room kept for a full disk can't be given up", "file", ballastFile, "error", err)
		return false
	}
	b.log.Info("the disk is full: the room kept for that is used, until there is room again", "bytes", b.size)
	return true
}
