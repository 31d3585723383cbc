package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"

	"varve/blockdev/target"
	"varve/blockdev/target/zoned/zone"
	"varve/objstore/failpoint"
)

// Start makes a device for the target and serves it until Stop, Quiesce or a failure. When it
// returns, the block device can be opened; its partitions are there after ScanPartitions. The
// caller still owns the target, and closes it after Wait. ctx bounds the start alone. Errors:
// ErrNoUblk, ErrPermission, ErrUnsupported, ErrExists, ErrInvalid, ErrTimeout, *OpError.
func Start(ctx context.Context, t target.Target, o Options) (*Device, error) {
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
	d, err := addDevice(ctx, c, t, &lim, &o)
	if err != nil {
		c.close()
		return nil, err
	}
	err = d.serveQueues(ctx, &o)
	if err == nil {
		failpoint.Here(failpoint.AttachFetched)
		err = d.untilFailure(ctx, func(ctx context.Context) error { return c.startDev(ctx, d.id) })
	}
	if err == nil {
		failpoint.Here(failpoint.AttachStarted)
		err = d.awaitDisk(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start device: %w", err), d.undo())
	}
	c.rest()
	return d, nil
}

func limitsOf(t target.Target, o *Options) (target.Limits, error) {
	lim := t.Limits()
	lim.EnsureDefaults()
	lim.ReadOnly = lim.ReadOnly || o.ReadOnly
	o.MaxIO, o.Queues = target.Bound(o.MaxIO, lim.MaxIO), target.Bound(o.Queues, lim.Queues)
	return lim, errors.Join(lim.Validate(), checkReport(&lim, o.MaxIO))
}

// checkReport refuses a disk whose zones are too many for one report: where a report takes several
// requests, the driver begins to count the zones of each at 0, and whoever asked gets wrong ones
// (ublk_report_zones in drivers/block/ublk_drv.c, Linux 7.3).
func checkReport(l *target.Limits, maxIO int) error {
	if l.Zones.Size <= 0 {
		return nil
	}
	if n, most := l.Size/l.Zones.Size, int64(maxIO/zone.DescriptorSize); n > most {
		return fmt.Errorf("%w: %d zones, with requests of up to %d bytes: the kernel's driver reports at most %d; use larger zones", ErrInvalid, n, maxIO, most)
	}
	return nil
}

// wantFlags are the features that a device of varve has.
func wantFlags(have uint64, lim *target.Limits, o *Options) (uint64, error) {
	mode, err := chooseMode(o.CopyMode, have)
	if err != nil {
		return 0, err
	}
	recovery, err := o.Recovery.flags(have)
	if err != nil {
		return 0, err
	}
	always := _UBLK_F_CMD_IOCTL_ENCODE | recovery
	if lim.Zones.Size != 0 {
		// Reports of zones are copied, and appends are answered with a place: the driver wants user
		// copy for either (ublk_ctrl_add_dev in drivers/block/ublk_drv.c, Linux 7.3).
		always |= _UBLK_F_ZONED | _UBLK_F_USER_COPY
		if lost := always &^ have & (_UBLK_F_ZONED | _UBLK_F_USER_COPY); lost != 0 {
			return 0, unsupported(lost&-lost, "a zoned device")
		}
		if mode == plainCopy {
			return 0, fmt.Errorf("%w: a zoned device in copy mode plain; use zero or user", ErrInvalid)
		}
	}
	optional := uint64(_UBLK_F_UPDATE_SIZE | _UBLK_F_NO_AUTO_PART_SCAN)
	switch mode {
	case zeroCopy:
		optional |= _UBLK_F_AUTO_BUF_REG | _UBLK_F_USER_COPY
	case userCopy:
		optional |= _UBLK_F_USER_COPY
	case plainCopy:
	}
	return always | optional&have, nil
}

// addDevice makes the device and sets its parameters.
func addDevice(ctx context.Context, c *control, t target.Target, lim *target.Limits, o *Options) (*Device, error) {
	have, err := c.features(ctx)
	if err != nil {
		return nil, err
	}
	want, err := wantFlags(have&^o.without, lim, o)
	if err != nil {
		return nil, err
	}
	info := ublksrv_ctrl_dev_info{
		nr_hw_queues: uint16(o.Queues), queue_depth: uint16(o.Depth), max_io_buf_bytes: uint32(o.MaxIO),
		dev_id: uint32(o.ID), ublksrv_pid: int32(os.Getpid()), flags: want, ublksrv_flags: o.Owner,
	}
	if err := c.addDev(ctx, &info); err != nil {
		return nil, err
	}
	failpoint.Here(failpoint.AttachAdded)
	d, err := newDevice(c, t, lim, &info, o)
	if err == nil {
		err = missing(want, info.flags)
	}
	if err == nil {
		p := params(lim, d.maxIO)
		err = c.setParams(ctx, d.id, &p)
		failpoint.Here(failpoint.AttachParams)
	}
	if err != nil {
		return nil, errors.Join(err, c.delDev(context.WithoutCancel(ctx), int(info.dev_id)))
	}
	return d, nil
}

// missing returns the first feature that the driver has silently dropped.
func missing(want, got uint64) error {
	for lost := want &^ got; lost != 0; {
		return unsupported(lost&-lost, "the device")
	}
	return nil
}

// newDevice returns a device as info describes it; nothing runs yet.
func newDevice(c *control, t target.Target, lim *target.Limits, info *ublksrv_ctrl_dev_info, o *Options) (*Device, error) {
	mode, err := chooseMode(o.CopyMode, info.flags)
	if err != nil {
		return nil, err
	}
	if mode == plainCopy && info.flags&(_UBLK_F_AUTO_BUF_REG|_UBLK_F_USER_COPY) != 0 {
		return nil, fmt.Errorf("%w: the device was made without copy mode plain", ErrMismatch)
	}
	if n := int(info.nr_hw_queues); target.Bound(n, lim.Queues) != n {
		return nil, fmt.Errorf("%w: the device has %d queues, the target at most %d", ErrMismatch, n, lim.Queues)
	}
	d := &Device{
		id: int(info.dev_id), target: t, flags: info.flags, transfer: mode,
		maxIO: int(info.max_io_buf_bytes), depth: int(info.queue_depth), nrQueues: int(info.nr_hw_queues),
		owner: info.ublksrv_flags, log: o.Logger, ctl: c,
		done: make(chan struct{}),
	}
	d.size.Store(lim.Size)
	return d, nil
}

// untilFailure runs a command that waits for the queues, and ends the wait when a queue fails.
func (d *Device) untilFailure(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-d.server.Failed():
			cancel()
		case <-stop:
		}
	}()
	err := f(ctx)
	select {
	case <-d.server.Failed():
		return errors.Join(d.server.Err(), err)
	default:
		return err
	}
}

// undo removes a device that did not start.
func (d *Device) undo() error {
	d.end()
	ctx, cancel := context.WithTimeout(context.Background(), slowCommand)
	defer cancel()
	err := errors.Join(d.ctl.stopDev(ctx, d.id), d.ctl.delDev(ctx, d.id))
	d.removeNodes()
	d.ctl.close()
	return err
}

// end makes the queues end without the driver and waits for them.
func (d *Device) end() {
	if d.server == nil {
		if d.char == nil {
			return
		}
		if err := d.char.Close(); err != nil {
			d.log.Error("close device", "id", d.id, "err", err)
		}
		return
	}
	d.server.Stop()
	<-d.done
}
