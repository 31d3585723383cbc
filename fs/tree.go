package fs

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"varve/objstore"
)

// tree is the state that all nodes of one mount share.
type tree struct {
	src       Source
	log       *slog.Logger
	started   time.Time
	owner     fuse.Owner
	imageMode uint32

	forDevice  bool                // Options.ForDevice
	sharedLive bool                // Options.SharedLive
	written    func(volume string) // Options.Written; may be nil

	mu      sync.Mutex
	handles map[*handle]struct{} // open handles, guarded by mu
}

// newTree returns the tree over src, for any transport to serve. The transport calls closeHandles
// at the end.
func newTree(src Source, o Options) (*tree, fuse.RawFileSystem) {
	t := &tree{
		src: src, log: o.Logger, started: time.Now(), imageMode: 0o400,
		owner:     fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())},
		forDevice: o.ForDevice, sharedLive: o.SharedLive, written: o.Written,
		handles: make(map[*handle]struct{}),
	}
	if o.AllowOther {
		t.imageMode = 0o444
	}
	root := newDir(t, inode("root"), rootListing{t})
	// No timeouts: the kernel looks every entry up again, so that a deletion is visible at once.
	raw := fusefs.NewNodeFS(root, &fusefs.Options{Logger: slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn)})
	return t, syncWrites{raw}
}

// closeHandles closes the handles that an aborted connection left open, for which the kernel sends
// no RELEASE. No request may be in flight.
func (t *tree) closeHandles() {
	t.mu.Lock()
	left := make([]*handle, 0, len(t.handles))
	for h := range t.handles {
		left = append(left, h)
	}
	t.mu.Unlock()
	for _, h := range left {
		h.close()
	}
}

// handle is an open file's reference to what its node has open.
type handle struct {
	t       *tree
	path    string // for log messages
	release func() error
	live    *liveHandle // the handle of a live file, else nil; set under tree.mu
}

// newHandle registers a handle. Its release is called once, by the kernel's RELEASE or else by
// closeHandles.
func (t *tree) newHandle(path string, release func() error) *handle {
	h := &handle{t: t, path: path, release: release}
	t.mu.Lock()
	t.handles[h] = struct{}{}
	t.mu.Unlock()
	return h
}

func (h *handle) close() {
	h.t.mu.Lock()
	_, open := h.t.handles[h]
	delete(h.t.handles, h)
	h.t.mu.Unlock()
	if !open {
		return
	}
	if err := h.release(); err != nil {
		h.t.fail("close", h.path, err)
	}
}

// Release closes the handle; the kernel sends nothing for it afterwards.
func (h *handle) Release(context.Context) syscall.Errno {
	h.close()
	return 0
}

// base is the state that every node has.
type base struct {
	fusefs.Inode
	t   *tree
	ino uint64
}

// node is a file or a directory as its parent returns it.
type node interface {
	fusefs.InodeEmbedder
	// attr fills in the attributes except the inode number and the file type.
	attr(ctx context.Context, a *fuse.Attr) error
	stable() fusefs.StableAttr
}

// blockSize is st_blksize, and the discard granularity of a loop device over a file
// (drivers/block/loop.c takes it from statfs). A non-zero value also keeps go-fuse from inventing
// st_blocks.
const blockSize = 4096

func (b *base) fill(a *fuse.Attr, mode uint32, changed time.Time) {
	a.Mode = mode
	a.Owner = b.t.owner
	a.Nlink = 1
	a.Blksize = blockSize
	a.SetTimes(&changed, &changed, &changed)
}

func setSize(a *fuse.Attr, size, data int64) {
	a.Size = uint64(size)
	a.Blocks = uint64((min(data, size) + objstore.SectorSize - 1) / objstore.SectorSize)
}

// Statfs returns the store's space and the longest possible name. The kernel sends it for the node
// that the path names.
func (b *base) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	used, free, err := b.t.src.Space()
	if err != nil {
		return b.t.fail("statfs", "", err)
	}
	free = max(free, 0)
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, objstore.MaxName
	out.Blocks = uint64((used + free) / blockSize)
	out.Bfree = uint64(free / blockSize)
	out.Bavail = out.Bfree
	return 0
}

// syncWrites makes O_DSYNC, O_SYNC and RWF_DSYNC writes durable. The kernel leaves that to the
// server: it sends the flags with each WRITE (fs/fuse/file.c, fuse_write_flags) and no FSYNC, and
// go-fuse does not pass them to its nodes.
type syncWrites struct{ fuse.RawFileSystem }

func (s syncWrites) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, st := s.RawFileSystem.Write(cancel, in, data)
	return s.sync(cancel, in, n, st)
}

func (s syncWrites) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	n, st := s.RawFileSystem.Writev(cancel, in, data)
	return s.sync(cancel, in, n, st)
}

func (s syncWrites) sync(cancel <-chan struct{}, in *fuse.WriteIn, n uint32, st fuse.Status) (uint32, fuse.Status) {
	if !st.Ok() || n == 0 || in.Flags&(unix.O_SYNC|unix.O_DSYNC) == 0 {
		return n, st
	}
	if st := s.Fsync(cancel, &fuse.FsyncIn{InHeader: in.InHeader, Fh: in.Fh}); !st.Ok() {
		return 0, st
	}
	return n, st
}
