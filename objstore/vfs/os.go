package vfs

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

type osFS struct{ dir string }

// OS gives the files below dir, which must exist. Errors are *fs.PathError and the like, and name the path.
func OS(dir string) FS { return &osFS{dir: dir} }

// fsNoCOW is FS_NOCOW_FL of Linux's uapi/linux/fs.h, what chattr +C sets.
const fsNoCOW = 0x00800000

// NoCOW has btrfs write the files that are made below dir from now on in place and without its own checksums. With them
// it copies a direct write since 6.14, for who owns the pages may change them under way (Documentation, btrfs,
// "Checksumming"), and what is overwritten needs new room, which a full disk does not have. It does nothing, and that
// without an error, on other file systems.
func NoCOW(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	fd := int(d.Fd())
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &st) }); err != nil {
		return &iofs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Type != unix.BTRFS_SUPER_MAGIC {
		return nil
	}
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return &iofs.PathError{Op: "get flags", Path: dir, Err: err}
	}
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|fsNoCOW)); err != nil {
		return &iofs.PathError{Op: "set no copy on write", Path: dir, Err: err}
	}
	return nil
}

// path refuses names that leave the directory.
func (o *osFS) path(op, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", &iofs.PathError{Op: op, Path: name, Err: iofs.ErrInvalid}
	}
	return filepath.Join(o.dir, name), nil
}

func (o *osFS) Create(name string) (File, error) {
	return o.open("create", name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (o *osFS) Open(name string) (File, error) { return o.open("open", name, os.O_RDWR) }

func (o *osFS) open(op, name string, flags int) (File, error) {
	p, err := o.path(op, name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(p, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return newOSFile(f), nil
}

func (o *osFS) Remove(name string) error {
	p, err := o.path("remove", name)
	if err != nil {
		return err
	}
	return os.Remove(p)
}

func (o *osFS) Rename(oldname, newname string) error {
	from, err := o.path("rename", oldname)
	if err != nil {
		return err
	}
	to, err := o.path("rename", newname)
	if err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (o *osFS) Mkdir(name string) error {
	p, err := o.path("mkdir", name)
	if err != nil {
		return err
	}
	return os.MkdirAll(p, 0o700)
}

func (o *osFS) List(name string) ([]string, error) {
	p, err := o.path("list", name)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p) // sorted
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (o *osFS) SyncDir(name string) error {
	p, err := o.path("sync", name)
	if err != nil {
		return err
	}
	d, err := os.Open(p)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock uses flock: the lock belongs to the open file, so it is refused to a second opener in the same
// process too, and goes with the process however that ends. It is an *os.File, which may be handed to another process.
func (o *osFS) Lock(name string) (io.Closer, error) {
	p, err := o.path("lock", name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err == nil {
		return f, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	return nil, errors.Join(&iofs.PathError{Op: "lock", Path: p, Err: err}, f.Close())
}

func (o *osFS) Space() (total, free int64, err error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(o.dir, &st) }); err != nil {
		return 0, 0, &iofs.PathError{Op: "statfs", Path: o.dir, Err: err}
	}
	unit := st.Frsize
	if unit == 0 {
		unit = st.Bsize
	}
	return int64(st.Blocks) * unit, int64(st.Bavail) * unit, nil
}

func (o *osFS) Used(name string) (int64, error) {
	p, err := o.path("stat", name)
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := retry(func() error { return unix.Stat(p, &st) }); err != nil {
		return 0, &iofs.PathError{Op: "stat", Path: p, Err: err}
	}
	return st.Blocks * 512, nil // stat(2): st_blocks is in 512-byte units on every file system
}

// retry repeats a system call that a signal interrupted: the runtime's preemption signal comes at any time.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// checkRange refuses ranges that no file can have.
func checkRange(off, length int64) error {
	if off < 0 || length < 0 || off+length < off {
		return fmt.Errorf("range %d+%d: %w", off, length, iofs.ErrInvalid)
	}
	return nil
}
