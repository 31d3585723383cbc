package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"varve/blockdev/target"
	"varve/objstore/failpoint"
)

// recoveryLimit is how long Recover waits for the kernel to notice that the predecessor is gone.
const recoveryLimit = 30 * time.Second

// dyingLimit is how long Recover waits for a dying server to end.
const dyingLimit = 2 * time.Second

// Recover takes over a device whose server has died or has called Quiesce: the target serves the
// requests that were under way and those that waited. Number, queues, depth, largest request and
// whether it is read-only are the device's own, and those of the options are ignored; CopyMode must
// fit what the device was made with. ErrServed: another living process serves the device. ErrMismatch: the device is not of
// the target's size (but see Options.MayGrow), or not of Options.Owner, if that is set. After any
// error the device still waits for a successor.
func Recover(ctx context.Context, id int, t target.Target, o Options) (*Device, error) {
	o.ID, o.ReadOnly = id, false // the device is what it is
	o.EnsureDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	lim, err := limitsOf(t, &o)
	if err != nil {
		return nil, err
	}
	c, err := openControl()
	if err != nil {
		return nil, err
	}
	d, err := takeOver(ctx, c, id, t, &lim, &o)
	if err != nil {
		c.close()
		return nil, fmt.Errorf("recover device %d: %w", id, err)
	}
	c.rest()
	return d, nil
}

func takeOver(ctx context.Context, c *control, id int, t target.Target, lim *target.Limits, o *Options) (*Device, error) {
	err := failpoint.Err(failpoint.RecoverFails)
	if err == nil {
		err = startRecovery(ctx, c, id, o.Owner)
	}
	if err != nil {
		return nil, err
	}
	failpoint.Here(failpoint.TakeoverStarted)
	info, err := c.devInfo(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := c.getParams(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := match(lim, &p, o.MayGrow); err != nil {
		return nil, err
	}
	d, err := newDevice(c, t, lim, &info, o)
	if err != nil {
		return nil, err
	}
	err = d.serveQueues(ctx, o)
	if err == nil {
		failpoint.Here(failpoint.TakeoverFetched)
		err = d.untilFailure(ctx, func(ctx context.Context) error { return c.endRecovery(ctx, id) })
	}
	if err != nil {
		d.end()
		return nil, err
	}
	failpoint.Here(failpoint.TakeoverEnded)
	if size := int64(p.basic.dev_sectors) << sectorShift; size < lim.Size {
		if err := d.Resize(ctx, lim.Size); err != nil { // its requests stay within the size that it has
			d.log.Warn("a device keeps its size until it is attached again", "id", id, "bytes", size, "of", lim.Size, "err", err)
		}
	}
	if err := d.awaitDisk(ctx); err != nil { // those that have the device open are served nevertheless
		d.log.Error("the path of a device that was taken over leads to something else", "id", id, "err", err)
	}
	return d, nil
}

// startRecovery begins recovery once the predecessor is gone: the kernel may drop its last
// reference to the character device a moment after its death.
func startRecovery(ctx context.Context, c *control, id int, owner uint64) error {
	began := time.Now()
	return retry(ctx, recoveryLimit, func() (bool, error) {
		info, err := c.devInfo(ctx, id)
		if err != nil {
			return false, err
		}
		switch {
		case owner != 0 && info.ublksrv_flags != owner:
			return false, fmt.Errorf("%w: it belongs to another owner", ErrMismatch) // the number was reused
		case info.state == _UBLK_S_DEV_DEAD:
			return false, fmt.Errorf("%w: it was never started, or has been stopped", ErrNoDevice)
		case info.state == _UBLK_S_DEV_LIVE && alive(int(info.ublksrv_pid)):
			return stillServed(int(info.ublksrv_pid), time.Since(began))
		}
		err = c.startRecovery(ctx, id)
		return errors.Is(err, ErrBusy), err
	})
}

// stillServed returns the error for a device whose server lives, and whether to wait for the server
// to end. A process that is being killed is alive until all its memory is freed.
func stillServed(pid int, since time.Duration) (wait bool, err error) {
	if pid == os.Getpid() { // an earlier device of this process, whose end the kernel has not noticed yet
		return since < dyingLimit, fmt.Errorf("%w: this process serves it", ErrBusy)
	}
	if dying(pid) {
		return since < dyingLimit, fmt.Errorf("%w: process %d, which serves it, is about to end", ErrBusy, pid)
	}
	return since < dyingLimit, fmt.Errorf("%w: process %d", ErrServed, pid)
}
