package vfs

import (
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Dir is a directory of the real file system, opened by a handle: its files remain accessible when
// the directory is moved or renamed. Files that are created in it belong to the directory's owner,
// so that a command run by root locks no user out. Safe for concurrent use, except Close.
type Dir struct {
	path string // as it was opened, for messages

	mu     sync.Mutex
	handle int  // -1: not open
	owner  int  // who gets what is made; -1: it is this process's own
	group  int  // goes with owner
	closed bool // for good
}

// OS returns the files below dir, which must exist when the first of them is asked for. Errors are
// *fs.PathError and the like, and name the path. What holds a Dir for long must Close it.
func OS(dir string) *Dir { return &Dir{path: dir, handle: -1} }

// Path is where the directory was when it was named.
func (d *Dir) Path() string { return d.path }

// Handle is a path that leads to the directory from within this process until Close, wherever it
// has been moved to.
func (d *Dir) Handle() (string, error) {
	fd, err := d.open()
	return "/proc/self/fd/" + strconv.Itoa(fd), err
}

// open returns the handle.
func (d *Dir) open() (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.handle >= 0 {
		return d.handle, nil
	}
	if d.closed {
		return -1, &iofs.PathError{Op: "open", Path: d.path, Err: iofs.ErrClosed}
	}
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Open(d.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, &iofs.PathError{Op: "open", Path: d.path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd) // nothing was written
		return -1, &iofs.PathError{Op: "stat", Path: d.path, Err: err}
	}
	d.owner = -1
	if os.Geteuid() == 0 && st.Uid != 0 { // others can't give files away
		d.owner, d.group = int(st.Uid), int(st.Gid)
	}
	d.handle = fd
	return fd, nil
}

// Close closes the handle.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	fd := d.handle
	d.handle, d.closed = -1, true
	if fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// OnReadOnly reports whether the directory's file system is read-only.
func (d *Dir) OnReadOnly() (bool, error) {
	fd, err := d.open()
	if err != nil {
		return false, err
	}
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &st) }); err != nil {
		return false, &iofs.PathError{Op: "statfs", Path: d.path, Err: err}
	}
	return st.Flags&unix.ST_RDONLY != 0, nil
}

// PunchFrees reports whether the directory's file system frees what is punched. btrfs does not, as
// long as anything is left of the extent that was written: of a write of 512 KiB, all stays while
// one block of it is there (btrfs_punch_hole in fs/btrfs/file.c drops references to extents, and an
// extent is freed with its last reference, Linux 7.3).
func (d *Dir) PunchFrees() (bool, error) {
	fd, err := d.open()
	if err != nil {
		return false, err
	}
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &st) }); err != nil {
		return false, &iofs.PathError{Op: "statfs", Path: d.path, Err: err}
	}
	return st.Type != unix.BTRFS_SUPER_MAGIC, nil
}

// at calls f with a name below the directory. It refuses names that lead out of it.
func (d *Dir) at(op, name string, call func(dir int) error) error {
	if !filepath.IsLocal(name) {
		return &iofs.PathError{Op: op, Path: name, Err: iofs.ErrInvalid}
	}
	fd, err := d.open()
	if err != nil {
		return err
	}
	if err := retry(func() error { return call(fd) }); err != nil {
		return &iofs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
	}
	return nil
}

// OpenFile is os.OpenFile below the directory. A file that it makes is its owner's alone; one that
// is there is not taken from whoever has it.
func (d *Dir) OpenFile(name string, flags int) (*os.File, error) {
	if flags&os.O_CREATE == 0 || flags&os.O_EXCL != 0 {
		return d.openFile("open", name, flags)
	}
	for {
		f, err := d.openFile("open", name, flags&^os.O_CREATE)
		if !errors.Is(err, iofs.ErrNotExist) {
			return f, err
		}
		f, err = d.openFile("create", name, flags|os.O_EXCL)
		if !errors.Is(err, iofs.ErrExist) {
			return f, err
		}
	}
}

func (d *Dir) openFile(op, name string, flags int) (*os.File, error) {
	fd := -1
	err := d.at(op, name, func(dir int) (err error) {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), filepath.Join(d.path, name))
	if flags&os.O_CREATE == 0 || d.owner < 0 {
		return f, nil
	}
	if err := given(retry(func() error { return unix.Fchown(fd, d.owner, d.group) })); err != nil {
		return nil, errors.Join(&iofs.PathError{Op: "chown", Path: f.Name(), Err: err}, f.Close(), d.Remove(name))
	}
	return f, nil
}

// given ignores the error of a file system on which even root cannot change a file's owner.
func given(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// Own makes the directory's owner the owner of a file that something else, such as bind, created.
func (d *Dir) Own(name string) error {
	if _, err := d.open(); err != nil || d.owner < 0 {
		return err
	}
	return d.at("chown", name, func(dir int) error {
		return given(unix.Fchownat(dir, name, d.owner, d.group, unix.AT_SYMLINK_NOFOLLOW))
	})
}

// OwnAll returns all that lies in a directory below, and is somebody else's, to the owner.
func (d *Dir) OwnAll(name string) error {
	if _, err := d.open(); err != nil || d.owner < 0 {
		return err
	}
	names, err := d.List(name)
	if err != nil {
		return err
	}
	for _, n := range append(names, ".") {
		n = filepath.Join(name, n)
		var st unix.Stat_t
		err := d.at("stat", n, func(dir int) error { return unix.Fstatat(dir, n, &st, unix.AT_SYMLINK_NOFOLLOW) })
		if err == nil && int(st.Uid) != d.owner {
			err = d.Own(n)
		}
		if err != nil && !errors.Is(err, iofs.ErrNotExist) { // it may have gone meanwhile
			return err
		}
	}
	return nil
}
