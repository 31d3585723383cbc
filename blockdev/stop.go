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

// openGrace is how long Stop waits for programs that open every new device for a moment, such as
// udev, and for the kernel's own partition scan.
const openGrace = 2 * time.Second

// Stop removes the device: it accepts no new requests, those under way are answered, and the device
// is deleted. Unless force is set, a device that is open, mounted or held is not stopped: ErrBusy.
// With force, data in the page cache of an open device is lost. Stop does not flush the target: its
// owner does.
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
		d.scanners.Wait() // reads of those still running have failed
	}
	return err
}

// Quiesce ends serving and leaves the block device, open or not, to a successor that calls Recover:
// requests wait for it. Requests under way are answered before. Serving has ended after an error
// too, and the device waits as after a crash: QUIESCE_DEV has the driver hold all requests back
// before it does anything that can fail, and only the release of the character device undoes that
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
			err := d.ctl.quiesceDev(ctx, d.id, quiesceLimit)
			return errors.Is(err, ErrBusy), err
		})
	}
	failpoint.Here(failpoint.QuiesceHeld)
	// Without the feature, or if the command fails, the driver takes what follows for the death of
	// its server.
	d.end()
	// The driver notices, after the last file is closed, in a work item.
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

// Delete removes a device that this process does not serve; ErrBusy while the device is open,
// unless force is set. If another process serves the device, that process sees it removed.
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

// deleteDisk deletes a device that stopDisk has stopped. With force it does not wait until the
// device is closed.
func deleteDisk(ctx context.Context, c *control, id int, force bool) error {
	if force {
		return c.delDevAsync(ctx, id)
	}
	return c.delDev(ctx, id)
}

// stopDisk removes the block device. The character device stays.
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

// unused returns ErrBusy if the block device is mounted, held, or open exclusively: it opens the
// device exclusively for a moment.
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
		return fmt.Errorf("find out whether the device is in use: %w", err)
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
