// Package diskfs tells what file system is on a block device, and mounts one that is a copy of another that may be
// mounted at the same time.
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

// ErrUnknown says that a device has none of the file systems that are known here.
var ErrUnknown = errors.New("no ext4, xfs or btrfs file system")

// FS is a file system on a device.
type FS struct {
	Type    string // as mount(2) has it: ext4, xfs, btrfs
	UUID    uuid.UUID
	Devices uint64 // how many devices it is on
}

// probeSize is how much of a device is looked at: all superblocks lie below it.
const probeSize = 68 << 10

// Identify tells the file system on a device by its superblock.
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

// Where the superblocks are and what they begin with: fs/ext4/ext4.h, fs/xfs/libxfs/xfs_format.h,
// include/uapi/linux/btrfs_tree.h of Linux.
const (
	extSuper, extMagicOff, extMagic, extUUID = 1024, 0x38, 0xef53, 0x68
	xfsMagic, xfsUUID                        = "XFSB", 32
	btrfsSuper, btrfsMagicOff, btrfsMagic    = 64 << 10, 0x40, "_BHRfS_M"
	btrfsUUID, btrfsDevices                  = 0x20, 0x88

	mbrMagicOff, mbrMagic = 510, 0xaa55
)

// identify looks at the first bytes of a device.
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
		return FS{}, fmt.Errorf("%w but a partition table; attach the snapshot with --writable and mount a partition of its device", ErrUnknown)
	}
	return FS{}, fmt.Errorf("%w; attach the snapshot with --writable and mount its device", ErrUnknown)
}

// Mount mounts the file system on a device, which is a copy that may be written to: its journal is replayed, also for a
// mount that is read-only.
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

// mayCopyBtrfs refuses a copy of a btrfs that the kernel can't tell from its original: it takes devices of one UUID for
// one file system. From Linux 6.7 (temp_fsid) it gives a second one of a single device a UUID for the time that it is
// mounted.
func (f FS) mayCopyBtrfs(sysfs string) error {
	if f.Devices != 1 {
		return fmt.Errorf("btrfs on %d devices: a snapshot is of one of them alone", f.Devices)
	}
	if _, err := os.Stat(filepath.Join(sysfs, f.UUID.String())); err != nil {
		return nil // not mounted
	}
	if _, err := os.Stat(filepath.Join(sysfs, "features", "temp_fsid")); err != nil {
		return fmt.Errorf("btrfs %s is mounted, and this kernel can't mount a copy beside it (temp_fsid, Linux 6.7); unmount it first", f.UUID)
	}
	return nil
}
