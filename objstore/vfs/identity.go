package vfs

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Identity distinguishes a file from every other file, including copies. It does not change when
// the file is renamed, in a snapshot of the disk below, or at a reboot. The zero Identity is
// unknown.
type Identity struct {
	Inode      uint64
	Generation uint32 // of the inode, which tells its uses apart; 0 where the file system has none or doesn't say
	Birth      int64  // nanoseconds of Unix time; 0 where the file system keeps none
}

// Known reports whether there is an identity at all.
func (i Identity) Known() bool { return i.Inode != 0 }

// Same reports whether two known identities are of one file. A field that one of them lacks is
// ignored: a later kernel may know more.
func (i Identity) Same(o Identity) bool {
	return i.Inode == o.Inode &&
		(i.Generation == o.Generation || i.Generation == 0 || o.Generation == 0) &&
		(i.Birth == o.Birth || i.Birth == 0 || o.Birth == 0)
}

func (i Identity) String() string {
	return fmt.Sprintf("inode %d, generation %d, made %s", i.Inode, i.Generation, time.Unix(0, i.Birth).UTC().Format(time.RFC3339Nano))
}

// Identify returns the identity of an open file, and the number of the device that its file system
// shows, which another mount of the same files may not share.
func Identify(f *os.File) (id Identity, device uint64, err error) {
	err = control(f, func(fd int) error {
		id, device, err = identify(fd)
		return err
	})
	if err != nil {
		return Identity{}, 0, &iofs.PathError{Op: "identify", Path: f.Name(), Err: err}
	}
	return id, device, nil
}

// control calls f with the descriptor of an open file. Unlike (*os.File).Fd it does not change the
// file's mode.
func control(f *os.File, use func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var uerr error
	err = c.Control(func(fd uintptr) { uerr = use(int(fd)) })
	return errors.Join(err, uerr)
}

// numbersAnew reports whether a file system assigns other inode numbers at each mount, as it stores
// none: FAT and exFAT. Files have no lasting identity there.
func numbersAnew(st *unix.Statfs_t) bool {
	return st.Type == unix.MSDOS_SUPER_MAGIC || st.Type == unix.EXFAT_SUPER_MAGIC
}

// fsGetVersion is FS_IOC_GETVERSION of Linux's uapi/linux/fs.h, which file systems answer with an
// int.
const fsGetVersion = 0x80087601

func identify(fd int) (id Identity, device uint64, err error) {
	var st unix.Statx_t
	err = retry(func() error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st)
	})
	if err != nil {
		return id, 0, err
	}
	id.Inode, device = st.Ino, unix.Mkdev(st.Dev_major, st.Dev_minor)
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Birth = st.Btime.Sec*int64(time.Second) + int64(st.Btime.Nsec)
	}
	// ext4, xfs, btrfs and others answer with the inode's generation; the rest have no such
	// request.
	if gen, err := unix.IoctlGetUint32(fd, fsGetVersion); err == nil {
		id.Generation = gen
	}
	return id, device, nil
}
