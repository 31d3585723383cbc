package fs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"varve/objstore"
)

// user is the mount's name among a volume's users.
const user = "fuse"

// liveFile is volumes/NAME/live.
type liveFile struct {
	base
	volumeListing
	vol refCounted[Volume] // open while any handle is

	written atomic.Bool   // since Options.Written was last called
	shown   atomic.Uint64 // the volume's Changes when the kernel last dropped its pages

	mu      sync.Mutex
	seen    objstore.VolumeInfo // guarded by mu
	changed time.Time           // guarded by mu
}

func (f *liveFile) path() string { return "volumes/" + f.name + "/live" }

func (f *liveFile) stable() fusefs.StableAttr {
	return fusefs.StableAttr{Mode: unix.S_IFREG, Ino: f.ino}
}

func (f *liveFile) attr(_ context.Context, a *fuse.Attr) error {
	info, err := f.info()
	if err != nil {
		return err
	}
	f.fillLive(a, info)
	return nil
}

func (f *liveFile) fillLive(a *fuse.Attr, info objstore.VolumeInfo) {
	f.fill(a, 0o600, f.changedAt(info))
	// Settled and unsettled bytes may overlap, so st_blocks can be too large but never too small.
	setSize(a, info.Size, info.Logical+info.Tail)
}

// changedAt returns the time of the last change as precisely as it is known. rsync and backup
// programs skip a file whose size and time are unchanged, so an open volume counts as always
// changing.
func (f *liveFile) changedAt(info objstore.VolumeInfo) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed.IsZero() || len(info.Users) > 0 || info.Root != f.seen.Root || info.Tail != f.seen.Tail ||
		len(f.seen.Users) > 0 {
		f.changed = time.Now()
	}
	f.seen = info
	return f.changed
}

// Getattr serves stat(2).
func (f *liveFile) Getattr(ctx context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return f.base.t.fail("getattr", f.path(), f.attr(ctx, &out.Attr))
}

// Setattr refuses every change except a truncation to the volume's own size.
func (f *liveFile) Setattr(_ context.Context, _ fusefs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	info, err := f.info()
	if err != nil {
		return f.base.t.fail("setattr", f.path(), err)
	}
	const changes = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_ATIME | fuse.FATTR_MTIME
	if size, ok := in.GetSize(); ok && size != uint64(info.Size) || !ok && in.Valid&changes != 0 {
		return unix.EPERM
	}
	f.fillLive(&out.Attr, info)
	out.Ino = f.ino
	return 0
}

// Open opens the volume, once for all handles. O_TRUNC is refused, as a volume's size is fixed.
func (f *liveFile) Open(_ context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_TRUNC != 0 {
		return nil, 0, unix.EPERM
	}
	t := f.base.t
	vol, err := f.vol.acquire(f.openVolume)
	if err != nil {
		return nil, 0, t.fail("open", f.path(), err)
	}
	unclaim, err := t.claim(vol, flags&unix.O_ACCMODE != unix.O_RDONLY)
	if err != nil {
		return nil, 0, t.fail("open", f.path(), errors.Join(err, f.vol.release()))
	}
	f.shown.Store(vol.Changes()) // the kernel drops its pages at an open
	h := &liveHandle{imageHandle: imageHandle{im: vol}, file: f, vol: vol}
	h.handle = t.newHandle(f.path(), func() error {
		err := f.vol.release()
		unclaim() // only now: release has flushed its writes
		return err
	})
	t.mu.Lock()
	h.live = h
	t.mu.Unlock()
	return h, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES | fuse.FOPEN_NOFLUSH, 0
}

// openVolume opens this volume and not another one that has got its name meanwhile: the identity is
// checked after opening.
func (f *liveFile) openVolume() (Volume, error) {
	info, err := f.info()
	if err != nil {
		return nil, err
	}
	vol, err := f.base.t.src.OpenVolume(info.Name, user)
	if err != nil {
		return nil, err
	}
	if info, err = f.info(); err == nil && info.Name != vol.Name() {
		err = objstore.ErrNotFound
	}
	if err != nil {
		_ = vol.Close() // another volume, still untouched
		return nil, err
	}
	return vol, nil
}

// liveHandle is an open live file. It is read like any image.
type liveHandle struct {
	imageHandle
	file *liveFile
	vol  Volume
}

// Write serves write(2). As on a block device, a write that crosses the end is cut short and a
// write that begins at or after the end is ENOSPC.
func (h *liveHandle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	room := h.vol.Size() - off
	if room <= 0 && len(data) > 0 {
		return 0, unix.ENOSPC
	}
	patient := newPatient(ctx)
	defer patient.end()
	n, err := h.vol.WriteContext(patient, data[:min(int64(len(data)), room)], off)
	h.file.written.Store(true)
	if err != nil {
		err = fmt.Errorf("write %d bytes at %d: %w", len(data), off, err)
		if e := h.t.fail("write", h.path, err); n == 0 {
			return 0, e
		}
	}
	return uint32(n), 0
}

// Fsync makes all earlier writes durable.
func (h *liveHandle) Fsync(context.Context, uint32) syscall.Errno {
	err := h.vol.Flush()
	h.file.notifyWritten(h.vol)
	return h.t.fail("fsync", h.path, err)
}

// Allocate serves fallocate(2). A log-structured store preallocates nothing, so mode 0 only checks
// the range.
func (h *liveHandle) Allocate(ctx context.Context, off, length uint64, mode uint32) syscall.Errno {
	const zeroing = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	if mode&^(zeroing|unix.FALLOC_FL_KEEP_SIZE) != 0 || mode&zeroing == zeroing {
		return unix.EOPNOTSUPP
	}
	size := uint64(h.vol.Size())
	end := off + length
	if end < off || end > size {
		if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
			return unix.EFBIG // would extend
		}
		end = size
	}
	if mode&zeroing == 0 || off >= end {
		return 0
	}
	defer h.file.written.Store(true)
	patient := newPatient(ctx)
	defer patient.end()
	return h.t.fail("fallocate", h.path, zero(patient, h.vol, int64(off), int64(end)))
}

// zero makes [off, end) read as zeroes: a hole over the whole sectors, written zeroes over a
// partial sector at either end.
func zero(ctx context.Context, v Volume, off, end int64) error {
	const sector = objstore.SectorSize
	first := min((off+sector-1)/sector*sector, end)
	last := max(end/sector*sector, first)
	if err := writeZeroes(ctx, v, off, first); err != nil {
		return err
	}
	if last > first {
		if err := v.ZeroContext(ctx, first, last-first); err != nil {
			return err
		}
	}
	return writeZeroes(ctx, v, last, end)
}

// writeZeroes writes zeroes over a part of a sector that is not already a hole.
func writeZeroes(ctx context.Context, v Volume, off, end int64) error {
	if off >= end {
		return nil
	}
	hole, n, err := extent(ctx, v, off)
	if err != nil || hole && n >= end-off {
		return err
	}
	var zeroes [objstore.SectorSize]byte
	_, err = v.WriteContext(ctx, zeroes[:end-off], off)
	return err
}
