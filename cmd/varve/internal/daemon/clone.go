package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"varve/blockdev"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (d *Daemon) serveCloneVolume(ctx context.Context, r *http.Request, c protocol.CloneVolume) (protocol.Volume, error) {
	name, err := volumeName(r)
	if err != nil {
		return protocol.Volume{}, err
	}
	v, err := d.store.CloneVolume(ctx, name, c.Snapshot, c.Name)
	if err != nil {
		return protocol.Volume{}, err
	}
	of := name
	if c.Snapshot != "" {
		of += "@" + c.Snapshot
	}
	d.log.Info("volume cloned", "of", of, "volume", v.Name)
	return d.volume(v), nil
}

func (d *Daemon) serveRollbackVolume(ctx context.Context, r *http.Request, c protocol.RollbackVolume) (protocol.RolledBack, error) {
	var none protocol.RolledBack
	name, err := volumeName(r)
	if err != nil {
		return none, err
	}
	if err := d.mayRollBack(ctx, name); err != nil {
		return none, err
	}
	// During the rollback the store refuses to open the volume, so no attach can come between.
	rb, err := d.store.RollbackVolume(ctx, name, c.Snapshot, objstore.RollbackOptions{NoSnapshot: c.NoSnapshot})
	if err != nil {
		return none, d.whoHas(name, err)
	}
	d.refreshLive(name)
	d.log.Info("volume rolled back", "snapshot", name+"@"+c.Snapshot, "kept_snapshot", rb.Snapshot)
	return protocol.RolledBack{Volume: d.volume(rb.Volume), KeptSnapshot: rb.Snapshot}, nil
}

// mayRollBack returns an error if the volume has a device, in any state: the kernel's cached pages
// of the device, and file systems on it, would differ from the volume.
func (d *Daemon) mayRollBack(ctx context.Context, volume string) error {
	ctx, give, err := d.turns.take(ctx, turnOf(volume))
	if err != nil {
		return err
	}
	defer give()
	if a, taken := d.table.Taken(volume); taken {
		return fmt.Errorf("volume %q: %w: attached as %s: %s; detach it first", volume, objstore.ErrInUse, a.Device, holders.OfDevice(a.Device))
	}
	if d.unlisted.Load() {
		return protocol.As(protocol.ErrBusy, errors.New("not all devices of the machine are known, and one of them may be this volume's; "+
			"start the daemon again where it can ask the driver"))
	}
	if d.isDaemon() {
		return nil
	}
	// The list of devices may be lost or incomplete.
	v, err := d.store.VolumeInfo(volume)
	if err != nil {
		return err
	}
	claims := instance.Claims{Volumes: []instance.Volume{{Name: v.Name, MarkName: v.MarkName}}}
	found, err := machine.findOwn(ctx, d.inst, claims, func(*blockdev.DeviceInfo) bool { return true })
	if len(found) > 0 {
		err = fmt.Errorf("volume %q: %w: its device %s waits for a daemon; start one with `varve serve --background`, then detach it",
			volume, objstore.ErrInUse, found[0].Device)
	}
	return err
}
