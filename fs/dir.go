package fs

import (
	"context"
	"errors"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"varve/objstore"
)

// listing is the content of a directory. Every call asks the source again.
type listing interface {
	// find returns the node of that name, or ErrNotFound.
	find(ctx context.Context, name string) (node, error)
	// list returns every entry.
	list(ctx context.Context) ([]fuse.DirEntry, error)
	// check returns the directory's time of creation, or ErrNotFound if the directory is gone.
	check() (time.Time, error)
}

// dir is a directory. Its entries cannot be created, removed or renamed through the mount.
type dir struct {
	base
	listing
	longest int // name in bytes
}

func newDir(t *tree, ino uint64, l listing) *dir {
	return &dir{base: base{t: t, ino: ino}, listing: l, longest: objstore.MaxName}
}

func dirEntry(name string, ino uint64) fuse.DirEntry {
	return fuse.DirEntry{Name: name, Mode: unix.S_IFDIR, Ino: ino}
}

func fileEntry(name string, ino uint64) fuse.DirEntry {
	return fuse.DirEntry{Name: name, Mode: unix.S_IFREG, Ino: ino}
}

func (d *dir) stable() fusefs.StableAttr {
	return fusefs.StableAttr{Mode: unix.S_IFDIR, Ino: d.ino}
}

func (d *dir) attr(_ context.Context, a *fuse.Attr) error {
	since, err := d.check()
	if err != nil {
		return err
	}
	d.fill(a, 0o555, since)
	return nil
}

// Lookup finds a child.
func (d *dir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	if len(name) > d.longest {
		return nil, unix.ENAMETOOLONG
	}
	n, err := d.find(ctx, name)
	if errors.Is(err, objstore.ErrInvalid) {
		return nil, unix.ENOENT // no volume or snapshot can have this name
	}
	if err == nil {
		err = n.attr(ctx, &out.Attr)
	}
	if err != nil {
		return nil, d.t.fail("lookup", name, err)
	}
	return d.NewInode(ctx, n, n.stable()), 0
}

// Readdir lists the children.
func (d *dir) Readdir(ctx context.Context) (fusefs.DirStream, syscall.Errno) {
	entries, err := d.list(ctx)
	if err != nil {
		return nil, d.t.fail("readdir", "", err)
	}
	return fusefs.NewListDirStream(entries), 0
}

// Getattr serves stat(2).
func (d *dir) Getattr(ctx context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return d.t.fail("getattr", "", d.attr(ctx, &out.Attr))
}

// Unlink always returns EPERM: without the method go-fuse would report success.
func (d *dir) Unlink(context.Context, string) syscall.Errno { return unix.EPERM }

// Rmdir always returns EPERM, for the same reason as Unlink.
func (d *dir) Rmdir(context.Context, string) syscall.Errno { return unix.EPERM }
