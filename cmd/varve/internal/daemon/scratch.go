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

// A snapshot is attached through a scratch volume over it (objstore.Store.CreateScratch), whether
// the device is writable or not. So there is one kind of device, which waits, is taken over and is
// handed over like any other. The scratch volume is deleted when it has no device any more,
// wherever that is noticed.

// errSnapshotAttached is the error of a request that needs the snapshot to have no device.
func errSnapshotAttached(of string, a protocol.Attachment) error {
	return fmt.Errorf("snapshot %q: %w: attached as %s; detach it first", of, objstore.ErrInUse, a.Device)
}

// attachSnapshot attaches a snapshot to a device node.
func (d *Daemon) attachSnapshot(ctx context.Context, r protocol.Attach) (_ protocol.Attached, err error) {
	if _, err := d.store.WaitSnapshot(ctx, r.Volume, r.Snapshot); err != nil {
		return protocol.Attached{}, err
	}
	defer func(ctx context.Context) { // behind the turns
		if err != nil {
			d.sweepScratch(ctx)
		}
	}(ctx)
	ctx, give, err := d.turns.take(ctx, turnOf(r.Volume+"@"+r.Snapshot)) // it is not deleted meanwhile
	if err != nil {
		return protocol.Attached{}, err
	}
	defer give()
	v, give, err := d.createScratch(ctx, r.Volume, r.Snapshot)
	if err != nil {
		return protocol.Attached{}, err
	}
	defer give()
	// The transport knows volumes only.
	r.Volume, r.Snapshot, r.ReadOnly, r.Writable = v.Name, "", !r.Writable, false
	return d.attach(ctx, r)
}

// createScratch creates a scratch volume over a snapshot, and takes its turn.
func (d *Daemon) createScratch(ctx context.Context, volume, snap string) (objstore.VolumeInfo, func(), error) {
	d.scratch.Lock() // it is not deleted meanwhile
	defer d.scratch.Unlock()
	v, err := d.store.CreateScratch(ctx, volume, snap)
	if err != nil {
		return v, nil, err
	}
	_, give, err := d.turns.take(ctx, turnOf(v.Name)) // the name is new: it is free
	return v, give, err
}

// sweepScratch deletes the scratch volumes without a device, whether served, waiting, foreign and
// undecided, or left over. It leaves alone those whose turn is taken: when it is given back, they
// are swept.
func (d *Daemon) sweepScratch(ctx context.Context) {
	if d.unlisted.Load() {
		return // one may have a device that was not listed
	}
	d.scratch.Lock()
	defer d.scratch.Unlock()
	for _, v := range d.store.ScratchVolumes() {
		if d.table.MayHave(v.Name) || d.turns.isTaken(turnOf(v.Name)) {
			continue
		}
		log := d.log.With("snapshot", v.Of, "scratch_volume", v.Name)
		if err := d.store.DeleteVolume(ctx, v.Name); err != nil {
			log.Warn("scratch volume of a snapshot was not deleted; the next daemon deletes it", "error", err)
			continue
		}
		log.Info("scratch volume of a snapshot deleted")
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

// detachTarget resolves the target of a Detach: a snapshot stands for its only device.
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

// serveAutoDetach makes the daemon detach a device when no file system is mounted from it any more.
// The client mounts it, as this process could not be killed while its own mount(2) waits for the
// device.
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
	// claimInterval is how often the daemon checks that a file system is still mounted.
	claimInterval = time.Second
	// busyInterval is the pause before the next try to detach a device that is open but not
	// mounted.
	busyInterval = 5 * time.Second
)

// watchMount detaches a device when it is not mounted any more.
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

// detachUnmounted detaches a device whose file system was unmounted. It returns false if the device
// is open.
func (d *Daemon) detachUnmounted(k *devices.Entry) bool {
	ctx, cancel := context.WithTimeout(context.Background(), server.RequestTimeout)
	defer cancel()
	defer d.sweepScratch(ctx)
	ctx, give, err := d.turnOfEntry(ctx, k)
	if errors.Is(err, protocol.ErrStopping) {
		return true
	}
	if err != nil {
		return false
	}
	defer give()
	if !d.table.StillServed(k) {
		return true
	}
	k = d.table.Current(k)
	if err := d.detach(ctx, k, false); err != nil {
		if !errors.Is(err, protocol.ErrBusy) {
			d.log.Warn("device of a snapshot that was unmounted is left over", "device", k.Device, "error", err)
		}
		return false
	}
	return true
}
