package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/google/uuid"

	"varve/blockdev"
	"varve/blockdev/target/volume"
	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
	"varve/objstore/failpoint"
)

// ublkTransport serves volumes as ublk devices.
type ublkTransport struct {
	store *objstore.Store
	inst  instance.Instance
	log   *slog.Logger
	seen  view
}

func newUblk(store *objstore.Store, inst instance.Instance, log *slog.Logger) *ublkTransport {
	return &ublkTransport{store: store, inst: inst, log: log, seen: machine}
}

// mark returns the mark of a device of this store.
func (t *ublkTransport) mark(a *protocol.Attachment) uint64 {
	if a.Mark != 0 {
		return a.Mark
	}
	return t.markOf(a.Volume)
}

// markOf returns the mark of a volume's devices.
func (t *ublkTransport) markOf(volume string) uint64 {
	if v, err := t.store.VolumeInfo(volume); err == nil {
		return t.inst.Mark(v.MarkName)
	}
	return t.inst.Mark(volume)
}

// openForDevice opens a volume for a device. Until it is closed, the live file cannot be opened for
// writing.
func openForDevice(store *objstore.Store, volume, user string) (*objstore.Volume, error) {
	vol, err := store.OpenVolume(volume, user)
	if err != nil {
		return nil, err
	}
	if _, err := vol.Claim(objstore.SideDevice); err != nil {
		return nil, errors.Join(err, vol.Close())
	}
	return vol, nil
}

func (t *ublkTransport) Attach(ctx context.Context, r protocol.Attach) (devices.Device, protocol.Attachment, error) {
	var none protocol.Attachment
	vol, err := openForDevice(t.store, r.Volume, "ublk")
	if err != nil {
		return nil, none, err
	}
	info, err := t.store.VolumeByID(uuid.UUID(vol.ID()).String())
	if err != nil {
		return nil, none, errors.Join(err, vol.Close())
	}
	failpoint.Here(failpoint.AttachOpened)
	o := blockdev.Options{
		ID: -1, Queues: r.Queues, Depth: r.Depth, CopyMode: blockdev.CopyMode(r.CopyMode), ReadOnly: r.ReadOnly,
		Owner: t.inst.Mark(info.MarkName), Logger: t.log,
	}
	if r.Number != nil {
		o.ID = *r.Number
	}
	dev, err := blockdev.Start(ctx, volume.New(vol), o)
	if r.Number != nil && errors.Is(err, blockdev.ErrExists) {
		o.ID = -1
		dev, err = blockdev.Start(ctx, volume.New(vol), o)
	}
	if err != nil {
		if errors.Is(err, blockdev.ErrNoUblk) {
			err = protocol.As(protocol.ErrNoTransport, err)
		}
		return nil, none, errors.Join(err, vol.Close())
	}
	return t.serve(dev, vol), protocol.Attachment{
		Device: dev.Path(), Transport: "ublk", ID: dev.ID(), CopyMode: string(dev.Mode()),
		Queues: dev.Queues(), Depth: dev.Depth(), ReadOnly: r.ReadOnly,
		Mark: o.Owner,
	}, nil
}

// serve closes the volume when the device has ended.
func (t *ublkTransport) serve(dev *blockdev.Device, vol *objstore.Volume) *ublkDevice {
	d := &ublkDevice{dev: dev, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		if d.err = dev.Wait(); d.err != nil {
			t.log.Error("device failed", "device", dev.Path(), "error", d.err)
		}
		if err := errors.Join(vol.Flush(), vol.Close()); err != nil {
			t.log.Error("close volume", "volume", vol.Name(), "device", dev.Path(), "error", err)
		}
	}()
	return d
}

func (t *ublkTransport) Find(ctx context.Context, c instance.Claims) ([]protocol.Attachment, error) {
	for _, v := range slices.Concat(t.store.Volumes(), t.store.ScratchVolumes()) {
		c.Volumes = append(c.Volumes, instance.Volume{Name: v.Name, MarkName: v.MarkName})
	}
	// Also if its server is alive: no other process may serve it, so its server is dying, or is
	// this process, and the kernel has not noticed the end of a queue yet.
	found, err := t.seen.findOwn(ctx, t.inst, c, func(*blockdev.DeviceInfo) bool { return true })
	if err == nil && (len(c.Noted) > 0 || len(t.store.ScratchVolumes()) > 0) && t.seen.hidden(ctx) {
		err = errHidden // the list is incomplete, and callers must know
	}
	return found, err
}

// Foreign implements transport. It also returns devices with a mark of an older version that no
// list has.
func (t *ublkTransport) Foreign(ctx context.Context, noted []protocol.Attachment, c instance.Claims) []protocol.Attachment {
	list, err := t.seen.devices(ctx)
	if err != nil {
		t.log.Warn("not all devices are known", "error", err)
	}
	for _, v := range t.store.Volumes() {
		noted = append(noted, protocol.Attachment{Volume: v.Name, ID: instance.AnyNumber, Mark: t.inst.OldMark(v.MarkName)})
	}
	own := c.Index(t.inst)
	var found []protocol.Attachment
	for _, i := range list {
		if _, ours := own.Volume(&i); ours {
			continue
		}
		for _, a := range noted {
			if a.Mark == i.Owner && (a.ID == i.ID || a.ID == instance.AnyNumber) {
				found = append(found, foreignDevice(&i, a))
				break
			}
		}
	}
	return found
}

func foreignDevice(i *blockdev.DeviceInfo, a protocol.Attachment) protocol.Attachment {
	a.Device, a.ID, a.Transport, a.State = i.Path, i.ID, "ublk", protocol.StateForeign
	a.Error = foreignWaits
	if i.ServerAlive {
		a.Error = fmt.Sprintf("%s; process %d serves it", foreignReason, i.ServerPID)
	}
	return a
}

const (
	foreignReason = "another store has attached it, of which this one is a copy or a snapshot, or which was here before " +
		"it was moved to another disk, or its disk mounted anew"
	foreignWaits = foreignReason + "; its I/O waits for that store's daemon"
)

func (t *ublkTransport) Recover(ctx context.Context, a protocol.Attachment) (devices.Device, error) {
	vol, err := openForDevice(t.store, a.Volume, "ublk")
	if errors.Is(err, objstore.ErrNotFound) {
		return nil, protocol.As(devices.ErrUnfit, err)
	}
	if err != nil {
		return nil, err
	}
	id := uuid.UUID(vol.ID()).String()
	if a.VolumeID != "" && a.VolumeID != id {
		return nil, errors.Join(protocol.As(devices.ErrUnfit, fmt.Errorf("volume %q is not the one that was attached", a.Volume)), vol.Close())
	}
	dev, err := blockdev.Recover(ctx, a.ID, volume.New(vol), blockdev.Options{
		CopyMode: blockdev.CopyMode(a.CopyMode), Owner: t.mark(&a), Logger: t.log, MayGrow: a.VolumeID == id,
	})
	if err != nil {
		switch {
		case errors.Is(err, blockdev.ErrServed):
			err = protocol.As(devices.ErrForeign, err)
		case errors.Is(err, blockdev.ErrMismatch), errors.Is(err, blockdev.ErrNoDevice):
			err = protocol.As(devices.ErrUnfit, err)
		case errors.Is(err, blockdev.ErrTimeout):
			err = protocol.As(devices.ErrUnanswered, err)
		}
		return nil, errors.Join(err, vol.Close())
	}
	return t.serve(dev, vol), nil
}

func (t *ublkTransport) Discard(ctx context.Context, a protocol.Attachment, force bool) error {
	i, err := blockdev.Peek(ctx, a.ID)
	if errors.Is(err, blockdev.ErrNoUblk) && t.seen.hidden(ctx) {
		return errHidden
	}
	if errors.Is(err, blockdev.ErrNoDevice) || errors.Is(err, blockdev.ErrNoUblk) {
		return nil
	}
	if err != nil {
		return err
	}
	if i.Owner != t.mark(&a) {
		return nil // another device has the number by now
	}
	if i.ServerAlive {
		return protocol.ErrBusy
	}
	if err = blockdev.Delete(ctx, a.ID, force); errors.Is(err, blockdev.ErrBusy) {
		err = protocol.ErrBusy
	}
	return err
}

// Close has nothing to close.
func (t *ublkTransport) Close() error { return nil }

// ublkDevice is a volume's device, and the volume.
type ublkDevice struct {
	dev  *blockdev.Device
	done chan struct{} // closed when the volume is closed
	err  error         // of its end; read when done is closed
}

// Err implements device.
func (d *ublkDevice) Err() error { return d.err }

func (d *ublkDevice) Done() <-chan struct{} { return d.done }

// Resize implements device.
func (d *ublkDevice) Resize(ctx context.Context, size int64) error { return d.dev.Resize(ctx, size) }

// ScanPartitions implements device.
func (d *ublkDevice) ScanPartitions(ctx context.Context) error { return d.dev.ScanPartitions(ctx) }

func (d *ublkDevice) Stop(ctx context.Context, force bool) error {
	err := d.dev.Stop(ctx, force)
	if errors.Is(err, blockdev.ErrBusy) {
		return protocol.ErrBusy
	}
	if err != nil {
		return err
	}
	<-d.done
	return nil
}

// Claimed implements device.
func (d *ublkDevice) Claimed() bool { return claimed(d.dev.Path()) }

func (d *ublkDevice) Leave(ctx context.Context) error {
	err := d.dev.Quiesce(ctx)
	<-d.done
	if err != nil {
		// Its service has ended anyway; the kernel holds its I/O as if the server had died.
		return fmt.Errorf("%s: %w: %w", d.dev.Path(), devices.ErrUnquiet, err)
	}
	return nil
}
