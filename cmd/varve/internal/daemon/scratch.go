package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// A snapshot gets a device by way of a scratch volume over it (objstore.Store.CreateScratch), whether the device is
// writable or not: then there is one kind of device, which waits for the next daemon, is taken over and handed over like
// any other. Its scratch volume is deleted when no device of it is left, wherever that is noticed.

// errSnapshotAttached keeps a snapshot that is on a device node.
func errSnapshotAttached(of string, a protocol.Attachment) error {
	return fmt.Errorf("snapshot %q: %w: attached as %s; detach it first", of, objstore.ErrInUse, a.Device)
}

// attachSnapshot puts a snapshot on a device node; change is held.
func (d *Daemon) attachSnapshot(ctx context.Context, r protocol.Attach) (protocol.Attached, error) {
	v, err := d.store.CreateScratch(ctx, r.Volume, r.Snapshot)
	if err != nil {
		return protocol.Attached{}, err
	}
	// The transport knows volumes only.
	r.Volume, r.Snapshot, r.ReadOnly, r.Writable = v.Name, "", !r.Writable, false
	at, err := d.attach(ctx, r)
	if err != nil {
		d.sweepScratch(ctx)
	}
	return at, err
}

// sweepScratch deletes the scratch volumes that are on no device, served, waiting, foreign as long as nobody has said
// whose it is, or left over; change is held.
func (d *Daemon) sweepScratch(ctx context.Context) {
	if d.unlisted {
		return // one may be under a device that we do not know of
	}
	for _, v := range d.store.ScratchVolumes() {
		if d.table.MayHave(v.Name) {
			continue
		}
		log := d.log.With("snapshot", v.Of, "scratch_volume", v.Name)
		if err := d.store.DeleteVolume(ctx, v.Name); err != nil {
			log.Warn("the throwaway layer over a snapshot is left over until the daemon starts again", "error", err)
			continue
		}
		log.Info("the throwaway layer over a snapshot is dropped")
	}
}

// onDevice finds a device of the snapshot "VOLUME@SNAPSHOT", served or waiting.
func (d *Daemon) onDevice(of string) []protocol.Attachment {
	var list []protocol.Attachment
	for _, a := range d.table.Shown() {
		if a.Snapshot == of {
			list = append(list, a)
		}
	}
	return list
}

// detachTarget is what the target of a Detach stands for: of a snapshot, its one device.
func (d *Daemon) detachTarget(target string) (string, error) {
	if strings.HasPrefix(target, "/") || !strings.Contains(target, "@") {
		return target, nil
	}
	list := d.onDevice(target)
	if len(list) < 2 {
		return firstOr(list, target), nil
	}
	nodes := make([]string, 0, len(list))
	for _, a := range list {
		nodes = append(nodes, a.Device)
	}
	return "", fmt.Errorf("snapshot %q is attached as %s: %w device; name one of them", target, strings.Join(nodes, ", "), objstore.ErrInvalid)
}

func firstOr(list []protocol.Attachment, target string) string {
	if len(list) == 0 {
		return target
	}
	return list[0].Device
}

// serveAutoDetach has a device detached once no file system is mounted from it any more. The client has mounted it: not
// this process, which could not die while its own mount(2) waits for the device.
func (d *Daemon) serveAutoDetach(_ context.Context, _ *http.Request, r protocol.AutoDetach) (protocol.Attachment, error) {
	if len(d.transports) == 0 {
		return protocol.Attachment{}, protocol.ErrNeedsDaemon
	}
	if k := d.table.SetMountedAt(r.Device, r.Dir); k != nil {
		d.watchMount(k)
		return d.table.Describe(k), nil
	}
	return protocol.Attachment{}, protocol.As(objstore.ErrNotFound, fmt.Errorf("%q is not the device of an attached volume", r.Device))
}

const (
	// claimInterval is how often it is looked whether a file system is still mounted.
	claimInterval = time.Second
	// busyInterval is how soon a device is tried again that is not mounted, and open all the same.
	busyInterval = 5 * time.Second
)

// watchMount detaches a device when nobody has it mounted.
func (d *Daemon) watchMount(k *devices.Entry) {
	d.watchers.Go(func() {
		for pause := claimInterval; ; {
			select {
			case <-k.Dev.Done():
				return
			case <-time.After(pause):
			}
			pause = claimInterval
			if !k.Dev.Claimed() && !d.detachUnmounted(k) {
				pause = busyInterval
			}
		}
	})
}

// detachUnmounted detaches a device whose file system was unmounted. False: it is open.
func (d *Daemon) detachUnmounted(k *devices.Entry) bool {
	ctx, cancel := context.WithTimeout(context.Background(), server.RequestTimeout)
	defer cancel()
	d.change.Lock()
	defer d.change.Unlock()
	if d.stopping.Load() || !d.table.StillServed(k) {
		return true
	}
	k = d.table.Current(k)
	if err := d.detach(ctx, k, false); err != nil {
		if !errors.Is(err, protocol.ErrBusy) {
			d.log.Warn("device of a snapshot that was unmounted is left over", "device", k.Device, "error", err)
		}
		return false
	}
	d.sweepScratch(ctx)
	return true
}
