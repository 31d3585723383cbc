// Package diskfs identifies the file system on a block device, and mounts one that is a copy of
// another file system, which may be mounted at the same time.
package diskfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// ErrUnknown means that a device has none of the file systems that this package knows.
var ErrUnknown = errors.New("no ext4, xfs or btrfs file system")

// FS is a file system on a device.
type FS struct {
	Type    string // as for mount(2): ext4, xfs, btrfs
	UUID    uuid.UUID
	Devices uint64 // the number of devices that it spans
}

// probeSize is the number of bytes that Identify reads: all superblocks are below it.
const probeSize = 68 << 10

// Identify identifies the file system on a device by its superblock.
func Identify(device string) (FS, error) {
	f, err := os.Open(device)
	if err != nil {
		return FS{}, err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, probeSize)
	if _, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return FS{}, fmt.Errorf("read the superblock: %w", err)
	}
	fsys, err := identify(head)
	if err != nil {
		return fsys, fmt.Errorf("%s: %w", device, err)
	}
	return fsys, nil
}

// Offsets and magic numbers of superblocks: fs/ext4/ext4.h, fs/xfs/libxfs/xfs_format.h,
// include/uapi/linux/btrfs_tree.h of Linux 7.3.
const (
	extSuper, extMagicOff, extMagic, extUUID = 1024, 0x38, 0xef53, 0x68
	xfsMagic, xfsUUID                        = "XFSB", 32
	btrfsSuper, btrfsMagicOff, btrfsMagic    = 64 << 10, 0x40, "_BHRfS_M"
	btrfsUUID, btrfsDevices                  = 0x20, 0x88

	mbrMagicOff, mbrMagic = 510, 0xaa55
)

// identify identifies a file system by the first probeSize bytes of its device.
func identify(head []byte) (FS, error) {
	le := binary.LittleEndian
	id := func(off int) uuid.UUID { return uuid.UUID(head[off : off+16]) }
	switch {
	case len(head) < probeSize:
		return FS{}, ErrUnknown
	case bytes.HasPrefix(head, []byte(xfsMagic)):
		return FS{Type: "xfs", UUID: id(xfsUUID), Devices: 1}, nil
	case bytes.HasPrefix(head[btrfsSuper+btrfsMagicOff:], []byte(btrfsMagic)):
		return FS{Type: "btrfs", UUID: id(btrfsSuper + btrfsUUID), Devices: le.Uint64(head[btrfsSuper+btrfsDevices:])}, nil
	case le.Uint16(head[extSuper+extMagicOff:]) == extMagic:
		return FS{Type: "ext4", UUID: id(extSuper + extUUID), Devices: 1}, nil // its driver has ext2 and ext3 too
	case le.Uint16(head[mbrMagicOff:]) == mbrMagic:
		return FS{}, fmt.Errorf("%w but a partition table; select a partition with --partition", ErrUnknown)
	}
	return FS{}, fmt.Errorf("%w; attach the snapshot with --writable and mount its device", ErrUnknown)
}

// Mount mounts the file system on a device, which is a writable copy: the file system's journal is
// replayed, even if the mount is read-only.
func (f FS) Mount(device, dir string, writable bool) error {
	var flags uintptr
	if !writable {
		flags = unix.MS_RDONLY
	}
	data := ""
	switch f.Type {
	case "xfs":
		data = "nouuid" // the original has the same UUID
	case "btrfs":
		if err := f.mayCopyBtrfs("/sys/fs/btrfs"); err != nil {
			return fmt.Errorf("%s: %w", device, err)
		}
	}
	if err := unix.Mount(device, dir, f.Type, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s as %s: %w; the kernel's log may say more", device, dir, f.Type, err)
	}
	return nil
}

// mayCopyBtrfs refuses a copy of a btrfs that the kernel cannot tell from its original: it treats
// devices of one UUID as one file system. Since Linux 6.7 (temp_fsid) it assigns a temporary UUID
// to a second file system on a single device.
func (f FS) mayCopyBtrfs(sysfs string) error {
	if f.Devices != 1 {
		return fmt.Errorf("btrfs on %d devices: a snapshot has only one of them", f.Devices)
	}
	if _, err := os.Stat(filepath.Join(sysfs, f.UUID.String())); err != nil {
		return nil // not mounted
	}
	if _, err := os.Stat(filepath.Join(sysfs, "features", "temp_fsid")); err != nil {
		return fmt.Errorf("btrfs %s is mounted, and this kernel cannot mount a copy at the same time (temp_fsid, Linux 6.7); unmount it first", f.UUID)
	}
	return nil
}
