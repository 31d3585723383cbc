package fs

import (
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// A volume's device and its live file are cached apart by the kernel. So only one of them writes: a live file is opened
// for writing while the volume has no device, and the other way round (objstore.Side). A mount that is asked to share
// claims nothing. Its live files and the device see each other's writes as soon as they are made where both go past
// the page cache; what the kernel keeps all the same is given up
//
//   - of live, which are pages of mappings: within shareInterval of a change;
//   - of the device: by Options.Written, at an fsync of live, or within shareInterval of a write.
//
// A page that both sides change meanwhile is still written back whole by one of them. That is what it means to share.

// shareInterval is how often a shared mount looks for changes of the volumes that are open in it.
const shareInterval = 250 * time.Millisecond

// claim is what an open of the live file takes of its volume; nil: nothing.
func (t *tree) claim(vol Volume, writable bool) (release func(), err error) {
	switch {
	case t.forDevice:
		return vol.Claim(objstore.SideDevice)
	case writable && !t.sharedLive:
		return vol.Claim(objstore.SideLive)
	}
	return func() {}, nil
}

// liveFiles are the live files that are open, all or those of one volume, with a handle of each.
func (t *tree) liveFiles(volume string) map[*liveFile]*liveHandle {
	t.mu.Lock()
	defer t.mu.Unlock()
	open := map[*liveFile]*liveHandle{}
	for h := range t.handles {
		if h.live != nil && (volume == "" || h.live.file.name == volume) {
			open[h.live.file] = h.live
		}
	}
	return open
}

// dropPages has the kernel forget the pages of a live file that it keeps for mappings.
func (f *liveFile) dropPages() {
	if e := f.NotifyContent(0, 0); e != 0 && e != unix.ENOENT {
		f.base.t.log.Warn("mappings may show what is old", "file", f.path(), "error", e)
	}
}

// Refresh has the kernel forget what it keeps of a volume's live file: mappings read it anew. For the moments at which a
// volume gets a device or loses it.
func (s *Server) Refresh(volume string) {
	for f := range s.tree.liveFiles(volume) {
		f.dropPages()
	}
}

// share keeps the caches of live files and devices together until quit is closed.
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
			f.tellWritten()
		}
	}
}

// tellWritten passes on that the file was written, if it was.
func (f *liveFile) tellWritten() {
	if t := f.base.t; t.written != nil && f.wrote.Swap(false) {
		t.written(f.name)
	}
}
