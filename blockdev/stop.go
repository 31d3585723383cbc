package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/devnode"
	"varve/objstore/failpoint"
)

// openGrace is how long Stop waits for those who open every new device for a moment, such as udev
// and the kernel's own partition scan.
const openGrace = 2 * time.Second

// Stop takes the device away: no new requests, those under way are answered, and the device is
// deleted. Unless force is set, a device that is open, mounted or held is not stopped: ErrBusy.
// What lies in the page cache of an open device is lost by force. The target is not flushed: its
// owner does that.
func (d *Device) Stop(ctx context.Context, force bool) error {
	if err := d.beginStop(); err != nil {
		return err
	}
	if err := stopDisk(ctx, d.ctl, d.id, d.flags, force); err != nil {
		d.endStop()
		return err
	}
	failpoint.Here(failpoint.DetachStopped)
	// The driver has answered all requests and takes the fetches back: the queues end by
	// themselves.
	select {
	case <-d.done:
	case <-time.After(quickCommand):
		d.end()
	}
	err := deleteDisk(context.WithoutCancel(ctx), d.ctl, d.id, force)
	failpoint.Here(failpoint.DetachDeleted)
	d.removeNodes()
	d.ctl.close()
	if err == nil {
		d.scanners.Wait() // their reads have failed, if they had not ended before
	}
	return err
}

// Quiesce ends serving and leaves the block device, open or not, to a successor that calls Recover:
// requests wait for it. Requests under way are answered before. It has ended after an error too,
// and the device waits as after a crash: QUIESCE_DEV has the driver hold all requests back before
// it does anything that can fail, and nothing takes that back but the release of the char device
// (ublk_ctrl_quiesce_dev, ublk_reset_ch_dev, 7.3).
func (d *Device) Quiesce(ctx context.Context) error {
	if err := d.beginStop(); err != nil {
		return err
	}
	var err error
	if d.has(_UBLK_F_QUIESCE) {
		err = retry(ctx, slowCommand, func() (bool, error) {
			if err := failpoint.Err(failpoint.QuiesceFails); err != nil {
				return false, err
			}
			err := d.ctl.quiesceDev(ctx, d.id, 5*time.Second)
			return errors.Is(err, ErrBusy), err
		})
	}
	failpoint.Here(failpoint.QuiesceHeld)
	// Without the feature, or when it fails, the driver takes what follows for the death of its
	// server.
	d.end()
	// It notices, after the last file is closed, in a work item of its own.
	ctx = context.WithoutCancel(ctx)
	gone := retry(ctx, quickCommand, func() (bool, error) {
		info, err := d.ctl.devInfo(ctx, d.id)
		if err == nil && info.state == _UBLK_S_DEV_LIVE {
			return true, fmt.Errorf("quiesce device %d: %w: still live", d.id, ErrBusy)
		}
		return false, err
	})
	d.ctl.close()
	return errors.Join(err, gone)
}

func (d *Device) beginStop() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return fmt.Errorf("%w: device %d is being stopped", ErrBusy, d.id)
	}
	d.stopping = true
	return nil
}

func (d *Device) endStop() {
	d.mu.Lock()
	d.stopping = false
	d.mu.Unlock()
}

// Resize tells the kernel the target's new size in bytes. The caller has made sure that the target
// has it, and, when it is smaller, that nobody uses what goes.
func (d *Device) Resize(ctx context.Context, size int64) error {
	if !d.has(_UBLK_F_UPDATE_SIZE) {
		return unsupported(_UBLK_F_UPDATE_SIZE, "resizing an attached device")
	}
	lim := d.target.Limits()
	lim.EnsureDefaults()
	lim.Size = size
	if err := lim.Validate(); err != nil {
		return err
	}
	old := d.size.Load()
	d.size.Store(max(old, size)) // requests past the old end may come before the command returns
	if err := d.ctl.updateSize(ctx, d.id, size); err != nil {
		d.size.Store(old)
		return err
	}
	d.size.Store(size)
	return nil
}

// Delete takes away a device that no living process serves; ErrBusy while it is open, unless force
// is set. Also for a device that another process serves: that process sees it go.
func Delete(ctx context.Context, id int, force bool) error {
	c, err := openControl()
	if err != nil {
		return err
	}
	defer c.close()
	info, err := c.devInfo(ctx, id)
	if err != nil {
		return err
	}
	if info.state != _UBLK_S_DEV_DEAD {
		if err := stopDisk(ctx, c, id, info.flags, force); err != nil {
			return err
		}
	}
	return deleteDisk(ctx, c, id, force)
}

// deleteDisk takes away what stopDisk has stopped. By force it does not wait for those who have it
// open.
func deleteDisk(ctx context.Context, c *control, id int, force bool) error {
	if force {
		return c.delDevAsync(ctx, id)
	}
	return c.delDev(ctx, id)
}

// stopDisk makes the block device go. The character device stays.
func stopDisk(ctx context.Context, c *control, id int, flags uint64, force bool) error {
	if force {
		return c.stopDev(ctx, id)
	}
	return retry(ctx, openGrace, func() (bool, error) {
		var err error
		if flags&_UBLK_F_SAFE_STOP_DEV != 0 {
			err = c.tryStopDev(ctx, id)
			if errors.Is(err, unix.ENODEV) {
				err = c.stopDev(ctx, id) // no disk: it was never started
			}
		} else if err = unused(ctx, id); err == nil {
			err = c.stopDev(ctx, id)
		}
		return errors.Is(err, ErrBusy), err
	})
}

// unused asks for the block device for itself alone, which mounts, holders and other exclusive
// openers refuse.
func unused(ctx context.Context, id int) error {
	if held, err := os.ReadDir(fmt.Sprintf("/sys/block/ublkb%d/holders", id)); err == nil && len(held) > 0 {
		return fmt.Errorf("%w: %s is held by %s", ErrBusy, blockPath(id), held[0].Name())
	}
	n, err := devnode.Block(filepath.Base(blockPath(id)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no disk: it was never started
	}
	if err == nil {
		_, err = n.Await(ctx)
	}
	if err != nil {
		return fmt.Errorf("whether the device is in use can't be told: %w", err)
	}
	fd, err := n.Open(unix.O_RDONLY | unix.O_EXCL)
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %s", ErrBusy, n.Path)
	case errors.Is(err, unix.ENXIO):
		return nil
	case err != nil:
		return err
	}
	return unix.Close(fd)
}
