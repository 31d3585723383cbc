// Package loopdev attaches loop devices to files, for a block device where the kernel has no ublk.
//
// A device is found by its backing file's path, as the kernel shows it in
// /sys/block/loopN/loop/backing_file. The file itself is never accessed for that: the server of a
// file in a FUSE mount may be dead or busy.
package loopdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/devnode"
)

// Errors of this package, for errors.Is.
var (
	// ErrNoLoop: /dev/loop-control is missing. The kernel needs CONFIG_BLK_DEV_LOOP, or its module
	// loop loaded.
	ErrNoLoop = errors.New("no /dev/loop-control: the kernel needs CONFIG_BLK_DEV_LOOP or the module loop")
	// ErrPermission: loop devices need CAP_SYS_ADMIN.
	ErrPermission = errors.New("loop devices need root")
	// ErrBusy: the device is open or mounted.
	ErrBusy = errors.New("device is in use")
	// ErrNotAttached: the device has no backing file.
	ErrNotAttached = errors.New("loop device has no backing file")
)

// sysBlock is the directory where the kernel shows block devices.
const sysBlock = "/sys/block"

// Options of a loop device. The zero value is the default.
type Options struct {
	// ReadOnly refuses writes.
	ReadOnly bool
	// BlockSize is the logical block size in bytes: 512 (default), or a power of two up to the page
	// size.
	BlockSize int
	// Buffered uses the file's page cache, where it has one, instead of O_DIRECT.
	Buffered bool
}

// Device describes a loop device.
type Device struct {
	Path      string `json:"path"` // /dev/loopN
	File      string `json:"file"` // the backing file's path as the kernel shows it, without "(deleted)"
	Deleted   bool   `json:"deleted,omitempty"`
	ReadOnly  bool   `json:"read_only"`
	DirectIO  bool   `json:"direct_io"`
	BlockSize int    `json:"block_size"` // bytes
	Size      int64  `json:"size"`       // bytes
}

// Attach attaches a loop device to file. The device is usable when Attach returns. Partitions are
// not scanned for.
func Attach(ctx context.Context, file string, o Options) (Device, error) {
	path, err := attach(ctx, file, o)
	if err != nil {
		return Device{}, fmt.Errorf("attach %s to a loop device: %w", file, err)
	}
	d, err := inspect(filepath.Base(path))
	if err != nil {
		return Device{}, errors.Join(err, Detach(ctx, path, true))
	}
	return d, nil
}

func attach(ctx context.Context, file string, o Options) (string, error) {
	control, err := openControl()
	if err != nil {
		return "", err
	}
	defer unix.Close(control)
	flags := unix.O_RDWR
	if o.ReadOnly {
		flags = unix.O_RDONLY
	}
	// Not os.OpenFile: this process may serve the file, and must not wait for itself inside its own
	// poller.
	backing, err := open(file, flags)
	if err != nil {
		return "", err
	}
	defer unix.Close(backing)
	for {
		n, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("find a free loop device: %w", permission(err))
		}
		path := "/dev/loop" + strconv.Itoa(n)
		err = configure(ctx, path, backing, o)
		if err == nil {
			return path, nil
		}
		// Another program took this device between the two calls.
		if !errors.Is(err, unix.EBUSY) || pause(ctx, 10*time.Millisecond) != nil {
			return "", err
		}
	}
}

func configure(ctx context.Context, path string, backing int, o Options) error {
	fd, err := openNode(ctx, path, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	c := unix.LoopConfig{Fd: uint32(backing), Size: uint32(o.BlockSize)}
	if o.BlockSize == 0 {
		c.Size = 512
	}
	if o.ReadOnly {
		c.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	if !o.Buffered {
		c.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	for {
		err := unix.IoctlLoopConfigure(fd, &c)
		// EAGAIN: pages from the device's previous use are still being written
		// (drivers/block/loop.c).
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			if err != nil {
				return fmt.Errorf("configure %s: %w", path, permission(err))
			}
			return nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// openNode opens a loop device, whose node may appear a moment after the device. It opens nothing
// else that may be at that path.
func openNode(ctx context.Context, path string, flags int) (int, error) {
	n, err := devnode.Block(filepath.Base(path))
	if err != nil {
		return -1, err
	}
	if _, err := n.Await(ctx); err != nil {
		return -1, err
	}
	return n.Open(flags)
}

// Detach removes the backing file from a loop device and returns when the device is free. For a
// device that is open or mounted it returns ErrBusy and changes nothing. With force the kernel
// detaches the device when its last user closes it, and Detach returns without waiting for that.
func Detach(ctx context.Context, device string, force bool) error {
	if err := detach(ctx, device, force); err != nil {
		return fmt.Errorf("detach %s: %w", device, err)
	}
	return nil
}

func detach(ctx context.Context, device string, force bool) error {
	if !strings.HasPrefix(device, "/dev/loop") {
		return fmt.Errorf("not a loop device: %w", unix.EINVAL)
	}
	if !attached(filepath.Base(device)) {
		return ErrNotAttached
	}
	// A program that probes every new device, such as udev, keeps it open for a moment only.
	const tries = 20
	for try := 1; ; try++ {
		err := clearDevice(ctx, device, force)
		if err == nil || !errors.Is(err, ErrBusy) || try == tries {
			if err == nil && !force {
				return waitFree(ctx, device)
			}
			return err
		}
		if err := pause(ctx, 25*time.Millisecond); err != nil {
			return err
		}
	}
}

func clearDevice(ctx context.Context, device string, force bool) error {
	flags := unix.O_RDONLY
	if !force {
		flags |= unix.O_EXCL // fails while a file system or the device mapper claims the device
	}
	fd, err := openNode(ctx, device, flags)
	if errors.Is(err, unix.EBUSY) {
		return ErrBusy
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0); err != nil {
		if errors.Is(err, unix.ENXIO) {
			return ErrNotAttached
		}
		return permission(err)
	}
	if force {
		return nil
	}
	// If there are other users, the kernel only marks the device for clearing on the last close,
	// without an error (drivers/block/loop.c, loop_clr_fd). If there are none, the device is
	// already going away: ENXIO.
	info, err := unix.IoctlLoopGetStatus64(fd)
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil { // the file's server is dead, and the mark may stay
		return fmt.Errorf("%w; get its status: %w", ErrBusy, err)
	}
	info.Flags &^= unix.LO_FLAGS_AUTOCLEAR
	if err := unix.IoctlLoopSetStatus64(fd, info); err != nil {
		return fmt.Errorf("%w; cancel its detaching: %w", ErrBusy, err)
	}
	return ErrBusy
}

func waitFree(ctx context.Context, device string) error {
	for attached(filepath.Base(device)) {
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// Find returns the loop devices over file, an absolute path without symbolic links. Devices over a
// file whose file system has been unmounted are not found, as the file no longer has a path.
func Find(file string) ([]Device, error) {
	return filter(func(d Device) bool { return d.File == file })
}

// Below returns the loop devices over files below the directory dir, with the restrictions of Find.
func Below(dir string) ([]Device, error) {
	dir = strings.TrimSuffix(dir, "/") + "/"
	return filter(func(d Device) bool { return strings.HasPrefix(d.File, dir) })
}

func filter(keep func(Device) bool) ([]Device, error) {
	all, err := List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(d Device) bool { return !keep(d) }), nil
}

// List returns all loop devices that have a backing file.
func List() ([]Device, error) {
	dirs, err := filepath.Glob(filepath.Join(sysBlock, "loop*", "loop", "backing_file"))
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	var out []Device
	for _, dir := range dirs {
		d, err := inspect(filepath.Base(filepath.Dir(filepath.Dir(dir))))
		if errors.Is(err, ErrNotAttached) {
			continue // detached meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func openControl() (int, error) {
	fd, err := open("/dev/loop-control", unix.O_RDWR)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return -1, ErrNoLoop
	}
	return fd, permission(err)
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

func permission(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %w", ErrPermission, err)
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
