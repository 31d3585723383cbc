package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"varve/objstore"
)

// imageSource names an immutable image: a snapshot, or a root.
type imageSource interface {
	open() (Image, error)
	// stat returns the size, the number of bytes that are not holes (-1: not yet known) and the
	// time of creation.
	stat() (size, data int64, created time.Time, err error)
	path() string
}

func (l snapshotListing) open() (Image, error) {
	s, err := l.info()
	if err != nil {
		return nil, err
	}
	return l.t.src.OpenSnapshot(s.Volume, s.Name)
}

func (l snapshotListing) stat() (int64, int64, time.Time, error) {
	s, err := l.info()
	data := s.Logical
	if s.Root == "" {
		data = -1 // not settled
	}
	return s.Size, data, s.Created, err
}

func (l snapshotListing) path() string { return "snapshots/" + l.of.name + "/" + l.name + "/disk.img" }

// rootImage names an image by its root.
type rootImage struct {
	t    *tree
	root string
}

func (r rootImage) open() (Image, error) { return r.t.src.OpenRoot(r.root) }

func (r rootImage) path() string { return "by-id/" + r.root + "/disk.img" }

func (r rootImage) stat() (int64, int64, time.Time, error) {
	epoch := time.Unix(0, 0) // equal content is the same file, regardless of when it was created
	i, err := r.t.src.RootInfo(r.root)
	return i.Size, i.Logical, epoch, err
}

func (r rootImage) check() (time.Time, error) {
	_, _, at, err := r.stat()
	return at, err
}

// imageFile is a disk.img.
type imageFile struct {
	base
	imageSource
	im      refCounted[Image]
	counted atomic.Int64 // 1 + the number of bytes that are not holes; 0 until they are counted
}

func newImage(t *tree, ino uint64, src imageSource) *imageFile {
	return &imageFile{base: base{t: t, ino: ino}, imageSource: src}
}

func (f *imageFile) stable() fusefs.StableAttr {
	return fusefs.StableAttr{Mode: unix.S_IFREG, Ino: f.ino}
}

func (f *imageFile) attr(ctx context.Context, a *fuse.Attr) error {
	size, data, created, err := f.stat()
	if err != nil {
		return err
	}
	if data < 0 {
		if data, err = f.count(ctx); err != nil {
			return err
		}
	}
	f.fill(a, f.t.imageMode, created)
	setSize(a, size, data)
	return nil
}

// count counts the bytes that are not holes. An exact result is kept, as the image never changes.
func (f *imageFile) count(ctx context.Context) (int64, error) {
	if n := f.counted.Load(); n > 0 {
		return n - 1, nil
	}
	im, err := f.im.acquire(f.open)
	if err != nil {
		return 0, err
	}
	data, exact, err := allocated(ctx, im)
	if err := errors.Join(err, f.im.release()); err != nil {
		return 0, err
	}
	if exact {
		f.counted.Store(data + 1)
	}
	return data, nil
}

// Getattr serves stat(2).
func (f *imageFile) Getattr(ctx context.Context, h fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	err := f.attr(ctx, &out.Attr)
	if ih, ok := h.(*imageHandle); ok && errors.Is(err, objstore.ErrNotFound) {
		// Deleted while open: the open file stays readable.
		f.fill(&out.Attr, f.t.imageMode, f.t.started)
		setSize(&out.Attr, ih.im.Size(), ih.im.Size())
		return 0
	}
	return f.t.fail("getattr", f.path(), err)
}

// Open opens for reading.
func (f *imageFile) Open(_ context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0 {
		return nil, 0, unix.EROFS
	}
	im, err := f.im.acquire(f.open)
	if err != nil {
		return nil, 0, f.t.fail("open", f.path(), err)
	}
	h := &imageHandle{handle: f.t.newHandle(f.path(), f.im.release), im: im}
	return h, fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH, 0
}

// Setattr always returns EROFS.
func (f *imageFile) Setattr(context.Context, fusefs.FileHandle, *fuse.SetAttrIn, *fuse.AttrOut) syscall.Errno {
	return unix.EROFS
}

// imageHandle is an open disk.img.
type imageHandle struct {
	*handle
	im Image
}

// Read serves read(2).
func (h *imageHandle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	patient := newPatient(ctx)
	defer patient.end()
	n, err := readAt(patient, h.im, dest, off)
	if err != nil {
		return nil, h.t.fail("read", h.path, err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Lseek serves SEEK_HOLE and SEEK_DATA.
func (h *imageHandle) Lseek(ctx context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	n, err := seek(ctx, h.im, int64(off), whence)
	return uint64(n), h.t.fail("lseek", h.path, err)
}

// Fsync has nothing to do.
func (h *imageHandle) Fsync(context.Context, uint32) syscall.Errno { return 0 }

// readAt fills p up to the end of the image. A shorter read is an error: the kernel would take it
// for the end of the file, and a loop device would read zeroes.
func readAt(ctx context.Context, im Image, p []byte, off int64) (int, error) {
	if off >= im.Size() {
		return 0, nil
	}
	p = p[:min(int64(len(p)), im.Size()-off)]
	n, err := im.ReadContext(ctx, p, off)
	if n == len(p) && (err == nil || errors.Is(err, io.EOF)) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return 0, fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}
