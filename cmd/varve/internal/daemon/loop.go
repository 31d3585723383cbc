package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/devnode"
	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/fs"
	"varve/fs/loopdev"
	"varve/objstore"
)

// loopTransport attaches a kernel loop device to a volume's live file in a private FUSE mount. Each
// volume has its own mount, so that removing a device by force aborts no other's.
type loopTransport struct {
	store *objstore.Store
	inst  instance.Instance
	dir   string // of the mounts: /run/varve/UUID-INSTANCE
	log   *slog.Logger
}

// runDir holds the private mounts of all daemons. It is outside the store, so that programs that
// copy or measure the store do not walk into its volumes.
const runDir = "/run/varve"

func newLoop(store *objstore.Store, inst instance.Instance, log *slog.Logger) devices.Transport {
	return &loopTransport{store: store, inst: inst, dir: privateDir(inst), log: log}
}

// privateDir returns the directory of the private mounts of an instance of a store.
func privateDir(in instance.Instance) string { return filepath.Join(runDir, in.UUID+"-"+in.ID) }

// mountDir returns the directory of a volume's private mount.
func (t *loopTransport) mountDir(volume string) string { return filepath.Join(t.dir, volume) }

// liveFile returns the file under a volume's loop device; dir is the volume's private mount.
func liveFile(dir, volume string) string { return filepath.Join(dir, "volumes", volume, "live") }

func (t *loopTransport) Attach(ctx context.Context, r protocol.Attach) (devices.Device, protocol.Attachment, error) {
	var none protocol.Attachment
	v, err := t.store.VolumeInfo(r.Volume)
	if err != nil {
		return nil, none, err
	}
	// The loop device's own open of the file claims the volume, but its error would be a bare
	// EBUSY.
	vol, err := openForDevice(t.store, r.Volume, "loop")
	if err != nil {
		return nil, none, err
	}
	defer func() { _ = vol.Close() }() // nothing was written through it
	dir := t.mountDir(r.Volume)
	if err := makeMountPoint(dir); err != nil {
		return nil, none, fmt.Errorf("make the private mount point: %w", err)
	}
	server, err := fs.Mount(dir, fs.Store(t.store), fs.Options{ForDevice: true, Logger: t.log})
	if err != nil {
		_ = removeMountPoint(dir)
		if errors.Is(err, fs.ErrNoFUSE) || errors.Is(err, fs.ErrPermission) {
			err = protocol.As(protocol.ErrNoTransport, err)
		}
		return nil, none, err
	}
	loop, err := loopdev.Attach(ctx, liveFile(dir, r.Volume), loopdev.Options{ReadOnly: r.ReadOnly, BlockSize: v.BlockSize})
	if err != nil {
		err = errors.Join(err, server.ForceUnmount(), removeMountPoint(dir))
		if errors.Is(err, loopdev.ErrNoLoop) || errors.Is(err, loopdev.ErrPermission) {
			err = protocol.As(protocol.ErrNoTransport, err)
		}
		return nil, none, err
	}
	d := &loopDevice{node: loop.Path, file: loop.File, server: server, dir: dir, done: make(chan struct{}), quit: make(chan struct{})}
	go d.watch()
	id, _ := strconv.Atoi(strings.TrimPrefix(loop.Path, "/dev/loop"))
	return d, protocol.Attachment{Device: loop.Path, Transport: "loop", ID: id, ReadOnly: r.ReadOnly, Mark: t.inst.Mark(v.MarkName)}, nil
}

// Find: a loop device dies with the server of its file.
func (t *loopTransport) Find(context.Context, instance.Claims) ([]protocol.Attachment, error) {
	return nil, nil
}

// Foreign: see Find.
func (t *loopTransport) Foreign(context.Context, []protocol.Attachment, instance.Claims) []protocol.Attachment {
	return nil
}

// Recover has nothing to recover.
func (t *loopTransport) Recover(context.Context, protocol.Attachment) (devices.Device, error) {
	return nil, devices.ErrCannotLeave
}

// Discard detaches the loop devices over a volume's dead live file, and removes its dead mount.
func (t *loopTransport) Discard(ctx context.Context, a protocol.Attachment, _ bool) error {
	dir := t.mountDir(a.Volume)
	if a.Mark == t.inst.OldMark(a.Volume) { // an older version's
		dir = filepath.Join(runDir, t.inst.UUID, a.Volume)
	}
	list, err := loopdev.Find(liveFile(dir, a.Volume))
	for _, l := range list {
		err = errors.Join(err, loopdev.Detach(ctx, l.Path, true))
	}
	if _, serr := dropStaleMount(dir); serr != nil {
		return errors.Join(err, serr)
	}
	return errors.Join(err, removeMountPoint(dir))
}

// Close has nothing to close.
func (t *loopTransport) Close() error { return nil }

// makeMountPoint makes a private mount point and the directories above it, which another daemon may
// be removing.
func makeMountPoint(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	for range 10 {
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
		err = os.MkdirAll(dir, 0o700)
	}
	return err
}

// removeMountPoint removes a private mount point, if it exists, and the store's directory and
// runDir if they are empty.
func removeMountPoint(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ofStore := filepath.Dir(dir)
	if os.Remove(ofStore) == nil && filepath.Dir(ofStore) == runDir {
		_ = os.Remove(runDir) // other stores' mounts may be in it
	}
	return nil
}

// loopDevice is a loop device and the private mount under it.
type loopDevice struct {
	node   string // /dev/loopN
	file   string // the backing file
	dir    string // the private mount
	server *fs.Server
	done   chan struct{} // closed when the device or its mount is gone
	quit   chan struct{} // closed by Stop
	once   sync.Once
}

func (d *loopDevice) Done() <-chan struct{} { return d.done }

// Err: the kernel does not say why.
func (d *loopDevice) Err() error { return nil }

// watchInterval is how soon the daemon notices that another process detached a device.
const watchInterval = time.Second

// watch notices when another process ends the device: losetup -d, or an unmount.
func (d *loopDevice) watch() {
	defer close(d.done)
	gone := make(chan struct{})
	go func() { d.server.Wait(); close(gone) }()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-d.quit:
			return
		case <-gone:
			return
		case <-tick.C:
			if !d.attached() {
				_ = d.server.ForceUnmount() // its file is not open any more; a leftover ends with the process
				_ = removeMountPoint(d.dir)
				return
			}
		}
	}
}

// attached reports whether the node is still a loop device over our file.
func (d *loopDevice) attached() bool {
	list, err := loopdev.Find(d.file)
	if err != nil {
		return true // unknown: keep serving
	}
	for _, l := range list {
		if l.Path == d.node {
			return true
		}
	}
	return false
}

// Resize makes the kernel read the size of the file again.
func (d *loopDevice) Resize(ctx context.Context, size int64) error {
	return loopdev.Resize(ctx, d.node, d.file, size)
}

// ScanPartitions has nothing to do: these loop devices have no partitions.
func (d *loopDevice) ScanPartitions(context.Context) error { return nil }

func (d *loopDevice) Stop(ctx context.Context, force bool) error {
	err := loopdev.ErrNotAttached
	if d.attached() { // otherwise the node is free, or has another file by now
		err = loopdev.Detach(ctx, d.node, force)
	}
	switch {
	case errors.Is(err, loopdev.ErrBusy):
		return protocol.ErrBusy
	case err != nil && !errors.Is(err, loopdev.ErrNotAttached):
		return err
	}
	d.once.Do(func() { close(d.quit) })
	<-d.done
	if force {
		err = d.server.ForceUnmount() // the I/O of processes that have the device open fails
	} else if err = d.server.Unmount(); errors.Is(err, fs.ErrBusy) {
		// The kernel lets go of the file a moment after the device is free.
		err = d.server.ForceUnmount()
	}
	if err != nil {
		return err
	}
	return removeMountPoint(d.dir) // watch may have done it
}

// Claimed implements device.
func (d *loopDevice) Claimed() bool { return claimed(d.node) }

// Leave: a loop device's file dies with this process.
func (d *loopDevice) Leave(context.Context) error { return devices.ErrCannotLeave }

// claimed opens the block device exclusively, as mount(8) does, to see whether it is in use. If
// something else is at its path, the device counts as claimed.
func claimed(node string) bool {
	n, err := devnode.Block(filepath.Base(node))
	if err != nil {
		return false // there is no such device
	}
	fd, err := n.Open(unix.O_RDONLY | unix.O_EXCL)
	if err != nil {
		return errors.Is(err, unix.EBUSY) || errors.Is(err, devnode.ErrNotDevice)
	}
	_ = unix.Close(fd)
	return false
}
