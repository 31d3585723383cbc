package vfs

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"varve/objstore/vfs/fstype"
)

// fsNoCOW is FS_NOCOW_FL of Linux's uapi/linux/fs.h, what chattr +C sets.
const fsNoCOW = 0x00800000

// NoCOW makes btrfs write files that are created below dir from now on in place and without
// checksums. With checksums it copies direct writes since Linux 6.14, as the pages' owner may
// change them meanwhile (Documentation, btrfs, "Checksumming"), and overwriting needs new space,
// which a full disk does not have. On other file systems NoCOW does nothing and returns no error.
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

// Create makes a file.
func (d *Dir) Create(name string) (File, error) {
	return d.file(d.openFile("create", name, os.O_RDWR|os.O_CREATE|os.O_EXCL))
}

// Open opens a file.
func (d *Dir) Open(name string) (File, error) { return d.file(d.openFile("open", name, os.O_RDWR)) }

func (d *Dir) file(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return newOSFile(f), nil
}

// Remove removes a file, or an empty directory.
func (d *Dir) Remove(name string) error {
	return d.at("remove", name, func(dir int) error {
		err := unix.Unlinkat(dir, name, 0)
		if errors.Is(err, unix.EISDIR) {
			err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		}
		return err
	})
}

// Rename renames a file.
func (d *Dir) Rename(oldname, newname string) error {
	if !filepath.IsLocal(newname) {
		return &iofs.PathError{Op: "rename", Path: newname, Err: iofs.ErrInvalid}
	}
	return d.at("rename", oldname, func(dir int) error { return unix.Renameat(dir, oldname, dir, newname) })
}

// Mkdir makes a directory, and those above it.
func (d *Dir) Mkdir(name string) error {
	if up := filepath.Dir(name); up != "." && filepath.IsLocal(name) {
		if err := d.Mkdir(up); err != nil {
			return err
		}
	}
	err := d.at("mkdir", name, func(dir int) error { return unix.Mkdirat(dir, name, 0o700) })
	if errors.Is(err, iofs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.Own(name)
}

// List returns the names in a directory, sorted.
func (d *Dir) List(name string) ([]string, error) {
	f, err := d.openFile("list", name, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// SyncDir makes the names in a directory durable.
func (d *Dir) SyncDir(name string) error {
	f, err := d.openFile("sync", name, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Lock uses flock: the lock belongs to the open file, so it is refused to a second opener in the
// same process too, and goes with the process however that ends. It is an *os.File, which may be
// handed to another process.
func (d *Dir) Lock(name string) (io.Closer, error) {
	f, err := d.OpenFile(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		return nil, err
	}
	return f, nil
}

// LockShared takes a shared lock, for readers: any number can be held at once, but not together
// with Lock's. It changes nothing, and the file must exist.
func (d *Dir) LockShared(name string) (io.Closer, error) {
	f, err := d.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_SH); err != nil {
		return nil, err
	}
	return f, nil
}

// flock locks a file, or closes it.
func flock(f *os.File, how int) error {
	err := retry(func() error { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) })
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	return errors.Join(&iofs.PathError{Op: "lock", Path: f.Name(), Err: err}, f.Close())
}

// Space returns the file system's size and its free space, in bytes.
func (d *Dir) Space() (total, free int64, err error) {
	fd, err := d.open()
	if err != nil {
		return 0, 0, err
	}
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &st) }); err != nil {
		return 0, 0, &iofs.PathError{Op: "statfs", Path: d.path, Err: err}
	}
	unit := st.Frsize
	if unit == 0 {
		unit = st.Bsize
	}
	return int64(st.Blocks) * unit, int64(st.Bavail) * unit, nil
}

// Used returns the space that a file occupies, in bytes.
func (d *Dir) Used(name string) (int64, error) {
	var st unix.Stat_t
	err := d.at("stat", name, func(dir int) error { return unix.Fstatat(dir, name, &st, 0) })
	return st.Blocks * 512, err // stat(2): st_blocks is in 512-byte units on every file system
}

// InMemory implements [FS], as fstype.InMemory.
func (d *Dir) InMemory() bool {
	fd, err := d.open()
	if err != nil {
		return false
	}
	return fstype.InMemory(fd)
}

// ReadFile returns a whole file of at most limit bytes.
func (d *Dir) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := d.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &iofs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("more than %d bytes", limit)}
	}
	return data, err
}

// WriteFile replaces what a file holds, not durably.
func (d *Dir) WriteFile(name string, data []byte) error {
	f, err := d.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// retry repeats a system call that a signal interrupted: the runtime's preemption signal comes at
// any time.
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
