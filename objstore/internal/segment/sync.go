package segment

import (
	"cmp"

	"varve/objstore/internal/disk"
)

// Sync makes the segment's data durable. An error is final: once a sync has failed, each later one
// fails too.
//
// Linux reports a failed write-back to one caller only: fdatasync returns an error once for each
// open file (file_check_and_advance_wb_err in mm/filemap.c, Linux 4.13 and later), and the pages
// that were not written count as clean from then on. Of two overlapping calls, one gets the error,
// and the other returns success although bytes are lost. So a call succeeds only when the calls
// that overlap it have ended, and none failed.
//
// Sync blocks, as long as the calls that overlap it. It holds no lock over the I/O.
func (g *File) Sync() error {
	if err := g.beginSync(); err != nil {
		return err
	}
	return g.endSync(disk.SyncError(g.Data.Datasync()))
}

// beginSync counts a new sync, unless one has failed before.
func (g *File) beginSync() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.unsynced == nil {
		g.syncing++
	}
	return g.unsynced
}

// endSync records the result of a sync, waits for those that overlap it, and returns the result of
// all of them.
func (g *File) endSync(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unsynced = cmp.Or(g.unsynced, err)
	g.syncing--
	if g.syncing == 0 && g.synced != nil {
		close(g.synced)
		g.synced = nil
	}
	if g.syncing > 0 {
		if g.synced == nil {
			g.synced = make(chan struct{})
		}
		synced := g.synced
		g.mu.Unlock()
		<-synced
		g.mu.Lock()
	}
	return g.unsynced
}
