package daemon

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"time"

	"varve/blockdev"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
	"varve/objstore/failpoint"
)

// ublkTransport serves volumes as ublk devices.
type ublkTransport struct {
	store *objstore.Store
	uuid  string
	log   *slog.Logger
}

func newUblk(store *objstore.Store, uuid string, log *slog.Logger) transport {
	return &ublkTransport{store: store, uuid: uuid, log: log}
}

// ownerOf is what the kernel keeps with a device to say whose it is: a volume of a store.
func ownerOf(uuid, volume string) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "varve\x00%s\x00%s", uuid, volume) // a hash takes everything
	return h.Sum64()
}

// Owner is what the kernel keeps with devices of `varve ublk`, which belong to no store.
var Owner = ownerOf("", "")

func (t *ublkTransport) Attach(ctx context.Context, r protocol.Attach) (device, protocol.Attachment, error) {
	var none protocol.Attachment
	vol, err := t.store.OpenVolume(r.Volume, "ublk")
	if err != nil {
		return nil, none, err
	}
	failpoint.Here(failpoint.AttachOpened)
	dev, err := blockdev.Start(ctx, blockdev.NewVolume(vol), blockdev.Options{
		ID: -1, Queues: r.Queues, Depth: r.Depth, CopyMode: blockdev.CopyMode(r.CopyMode), ReadOnly: r.ReadOnly,
		Owner: ownerOf(t.uuid, r.Volume), Logger: t.log,
	})
	if err != nil {
		if errors.Is(err, blockdev.ErrNoUblk) {
			err = protocol.As(protocol.ErrNoTransport, err)
		}
		return nil, none, errors.Join(err, vol.Close())
	}
	return t.serve(dev, vol), protocol.Attachment{
		Device: dev.Path(), Transport: "ublk", ID: dev.ID(), CopyMode: string(dev.Mode()),
		Queues: dev.Queues(), Depth: dev.Depth(), ReadOnly: r.ReadOnly,
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

func (t *ublkTransport) Find(ctx context.Context, volumes []string) ([]protocol.Attachment, error) {
	for _, v := range slices.Concat(t.store.Volumes(), t.store.ScratchVolumes()) {
		volumes = append(volumes, v.Name)
	}
	// One whose server is alive too: nobody else may be that, so it is a process that dies, or this one, of whose queue's
	// end the kernel has not heard yet.
	return findUnserved(ctx, t.uuid, volumes, func(*blockdev.DeviceInfo) bool { return true })
}

// findUnserved lists the devices of a store's volumes that are as asked. They are known by the mark that they were
// made with, which no other store's and no other program's have. With an error some may be missing.
func findUnserved(ctx context.Context, uuid string, volumes []string, which func(*blockdev.DeviceInfo) bool) ([]protocol.Attachment, error) {
	list, err := blockdev.List(ctx)
	if errors.Is(err, blockdev.ErrNoUblk) || errors.Is(err, blockdev.ErrPermission) {
		return nil, nil // then there are none, or none of ours
	}
	owners := map[uint64]string{}
	for _, v := range volumes {
		owners[ownerOf(uuid, v)] = v
	}
	var found []protocol.Attachment
	for _, i := range list {
		if volume, ours := owners[i.Owner]; ours && which(&i) {
			found = append(found, protocol.Attachment{
				Volume: volume, Device: i.Path, Transport: "ublk", ID: i.ID, CopyMode: string(i.CopyMode),
				Queues: i.Queues, Depth: i.Depth, ReadOnly: i.ReadOnly, Since: time.Now().UTC().Truncate(time.Second),
			})
		}
	}
	return found, err
}

// NotedVolumes names the volumes of those ublk devices that the last daemon of the store in dir has written down: for
// commands that find no daemon. The mark that the kernel keeps says whether a number is still that device's.
func NotedVolumes(dir string, list []blockdev.DeviceInfo) map[string]string {
	names := map[string]string{}
	s, err := readState(dir)
	if err != nil || s.Boot != bootID() {
		return names
	}
	for _, a := range s.Attached {
		for _, i := range list {
			if i.Path == a.Device && i.Owner == ownerOf(s.Store, a.Volume) {
				names[a.Device] = a.Volume
			}
		}
	}
	return names
}

func (t *ublkTransport) Recover(ctx context.Context, a protocol.Attachment) (device, error) {
	vol, err := t.store.OpenVolume(a.Volume, "ublk")
	if errors.Is(err, objstore.ErrNotFound) {
		return nil, protocol.As(errUnfit, err)
	}
	if err != nil {
		return nil, err
	}
	dev, err := blockdev.Recover(ctx, a.ID, blockdev.NewVolume(vol), blockdev.Options{
		CopyMode: blockdev.CopyMode(a.CopyMode), ReadOnly: a.ReadOnly, Owner: ownerOf(t.uuid, a.Volume), Logger: t.log,
	})
	if err != nil {
		if errors.Is(err, blockdev.ErrMismatch) || errors.Is(err, blockdev.ErrNoDevice) {
			err = protocol.As(errUnfit, err)
		}
		return nil, errors.Join(err, vol.Close())
	}
	return t.serve(dev, vol), nil
}

func (t *ublkTransport) Discard(ctx context.Context, a protocol.Attachment, force bool) error {
	i, err := blockdev.Info(ctx, a.ID)
	if errors.Is(err, blockdev.ErrNoDevice) || errors.Is(err, blockdev.ErrNoUblk) {
		return nil
	}
	if err != nil {
		return err
	}
	if i.Owner != ownerOf(t.uuid, a.Volume) {
		return nil // the number is somebody else's by now
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
		// It has ended all the same; the kernel takes it for dead, and keeps its I/O.
		return fmt.Errorf("%s: %w: %w", d.dev.Path(), errUnquiet, err)
	}
	return nil
}

// waitingDevices lists, by the state that the last daemon wrote, the devices that wait for the next one. It is for
// those who can't ask the store: it is not open yet.
func waitingDevices(ctx context.Context, dir string, log *slog.Logger) []protocol.Attachment {
	s, err := readState(dir)
	if err != nil {
		log.Error("devices of an earlier daemon, if any, are unknown", "error", err)
		return nil
	}
	if s.Boot != bootID() || len(s.Attached) == 0 {
		return nil
	}
	volumes := make([]string, 0, len(s.Attached))
	for _, a := range s.Attached {
		volumes = append(volumes, a.Volume)
	}
	list, err := findUnserved(ctx, s.Store, volumes, (*blockdev.DeviceInfo).Orphan)
	if err != nil {
		log.Error("not all devices are known; those that an earlier daemon has noted count as waiting", "error", err)
		list = andNoted(list, s.Attached, "ublk")
	}
	return list
}
