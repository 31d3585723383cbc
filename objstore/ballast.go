package objstore

import (
	"errors"
	"log/slog"
	"os"
	"sync/atomic"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// ballastFile is a file whose bytes mean nothing: only the room that it takes counts.
const ballastFile = "ballast"

// ballast keeps some room of the disk in a file, for the time when others have taken the last byte:
// what gives room back needs some room itself. A collection writes the shortened list of a segment
// before it punches the segment, and the first time a new superblock; a deletion appends to the log of
// names; a discard settles to new tree nodes. When one of these finds no room, the ballast is dropped,
// and made again when there is room once more.
//
// The file belongs to the room that writes leave free: it counts as free in the space account. Nothing
// relies on it. A store without one, because it was opened on a full disk or others were quicker to
// take what the ballast gave up, returns ErrNoSpace.
//
// What lies under the name is never opened, since it need not be the store's (a link that somebody has
// put there): drop removes the name, and keep makes a file that was not there before.
//
// Only drop and keep change the file. They block; held over I/O: mu.
type ballast struct {
	fs     vfs.FS
	size   int64       // bytes
	wanted func() bool // reports whether somebody frees room now, who may need what the ballast has
	log    *slog.Logger

	mu      lockorder.IOMutex[lockorder.Ballast]
	held    atomic.Int64 // bytes that the file takes, size at most; changes under mu
	drops   atomic.Int64 // how often room was given up; changes under mu
	refused bool         // it was logged that there can be no ballast; under mu
}

// ballastSlack is what a ballast has beside the longest list of a segment, in bytes: for superblocks,
// frames of the log of names, and what the file system itself writes.
const ballastSlack = 128 << 10

// newBallast returns the ballast of a store with segments of that many bytes, and a reserve. It has
// no room until keep is called. wanted must not block.
func newBallast(fs vfs.FS, segmentSize, reserve int64, wanted func() bool, log *slog.Logger) *ballast {
	list := segmentSize / disk.BlockSize * segment.ObjectSize // of the smallest objects
	size := disk.RoundUp(list+list/16+ballastSlack, disk.BlockSize)
	return &ballast{fs: fs, size: min(size, reserve/4/disk.BlockSize*disk.BlockSize), wanted: wanted, log: log}
}

// keep has the file take its room, if it does not and the disk has twice as much, and nobody needs
// that room to free more. What an earlier process has left counts, even if it is shorter.
func (b *ballast) keep() {
	if b.size == 0 || !b.mu.TryLock() {
		return
	}
	defer b.mu.Unlock()
	used, err := b.fs.Used(ballastFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return
	}
	b.held.Store(min(used, b.size))
	if used >= b.size || b.wanted() {
		return
	}
	if _, free, err := b.fs.Space(); err != nil || free < 2*b.size {
		return
	}
	b.held.Store(0)
	if err = b.take(); err == nil {
		b.held.Store(b.size)
	} else if !errors.Is(disk.SpaceError(err), ErrNoSpace) && !b.refused {
		b.refused = true
		b.log.Warn("no room is kept for a full disk", "file", ballastFile, "error", err)
	}
}

// take makes the file anew, and allocates it. After an error there is none, unless that can't be
// removed.
// REQUIRES: mu is held.
func (b *ballast) take() error {
	if err := b.remove(); err != nil {
		return err
	}
	f, err := b.fs.Create(ballastFile)
	if err != nil {
		return err
	}
	if err = f.Allocate(0, b.size); err == nil {
		err = f.Datasync() // on btrfs that is when the room is taken for certain
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = b.remove()
	}
	return err
}

// remove removes the file, if it is there.
// REQUIRES: mu is held.
func (b *ballast) remove() error {
	if err := b.fs.Remove(ballastFile); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// dropFor is drop for a settling that may write so many bytes, and a journal: false if there is not
// twice as much.
func (b *ballast) dropFor(bytes int64) bool {
	return 2*bytes+journal.WindowSize <= b.held.Load() && b.drop()
}

// drop gives up the room, and reports whether there was any. Two that find no room at the same time
// both get the room of the ballast: the second one waits for the first, and is told the same.
func (b *ballast) drop() bool {
	before := b.drops.Load()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.drops.Load() != before {
		return true
	}
	bytes := b.held.Swap(0)
	if bytes == 0 {
		return false
	}
	if err := b.remove(); err != nil {
		b.log.Warn("the room kept for a full disk can't be given up", "file", ballastFile, "error", err)
		return false
	}
	err := b.fs.SyncDir(".") // file systems hand freed blocks out again once that is durable
	b.drops.Add(1)
	b.log.Info("the disk is full: the room kept for that is used, until there is room again", "bytes", bytes, "error", err)
	return true
}
