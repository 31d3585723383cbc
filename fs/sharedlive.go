package fs

import (
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// The kernel caches a volume's device and its live file separately. So only one of them may be
// written: a live file can be opened for writing only while the volume has no device, and the other
// way round (objstore.Side). A mount with Options.SharedLive claims neither side. Where both sides
// bypass the page cache, each sees the other's writes at once; otherwise the kernel drops its
// outdated pages
//
//   - of live, where they belong to mappings: within shareInterval of a change;
//   - of the device: by Options.Written, at an fsync of live or within shareInterval of a write.
//
// A page that both sides change in the meantime is still written back as a whole by one of them,
// and the other's change is lost.

// shareInterval is how often a shared mount checks its open volumes for changes.
const shareInterval = 250 * time.Millisecond

// claim claims the side of the volume that opening its live file needs, if any.
func (t *tree) claim(vol Volume, writable bool) (release func(), err error) {
	switch {
	case t.forDevice:
		return vol.Claim(objstore.SideDevice)
	case writable && !t.sharedLive:
		return vol.Claim(objstore.SideLive)
	}
	return func() {}, nil
}

// liveFiles returns the open live files of one volume, or of all if volume is empty, each with one
// of its handles.
func (t *tree) liveFiles(volume string) map[*liveFile]*liveHandle {
	t.mu.Lock()
	defer t.mu.Unlock()
	open := map[*liveFile]*liveHandle{}
	for h := range t.handles {
		if h.live != nil && (volume == "" || h.live.vol.Name() == volume) {
			open[h.live.file] = h.live
		}
	}
	return open
}

// dropPages makes the kernel drop the pages that it caches for mappings of a live file.
func (f *liveFile) dropPages() {
	if e := f.NotifyContent(0, 0); e != 0 && e != unix.ENOENT {
		f.base.t.log.Warn("mappings may show outdated data", "file", f.path(), "error", e)
	}
}

// Refresh makes the kernel drop what it caches of a volume's live file, so that mappings read it
// again. Call it after the volume is attached to a device or detached from one.
func (s *Server) Refresh(volume string) {
	for f := range s.tree.liveFiles(volume) {
		f.dropPages()
	}
}

// share keeps the kernel's caches of live files and devices coherent until quit is closed.
func (t *tree) share(quit <-chan struct{}) {
	for {
		select {
		case <-quit:
			return
		case <-time.After(shareInterval):
		}
		for f, h := range t.liveFiles("") {
			if n := h.vol.Changes(); f.shown.Swap(n) != n {
				f.dropPages()
			}
			f.notifyWritten(h.vol)
		}
	}
}

// notifyWritten calls Options.Written if the file was written since the last call.
func (f *liveFile) notifyWritten(vol Volume) {
	if t := f.base.t; t.written != nil && f.written.Swap(false) {
		t.written(vol.Name())
	}
}
