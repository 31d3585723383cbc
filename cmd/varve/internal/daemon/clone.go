package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

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
	leave, err := d.wait()
	if err != nil {
		return protocol.Volume{}, err
	}
	defer leave()
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
	leave, err := d.wait()
	if err != nil {
		return none, err
	}
	defer leave()
	if err := d.mayRollBack(ctx, name); err != nil {
		return none, err
	}
	// The store lets nobody open the volume from here on, so no attach can come between.
	rb, err := d.store.RollbackVolume(ctx, name, c.Snapshot, objstore.RollbackOptions{NoSnapshot: c.NoSnapshot})
	if err != nil {
		return none, d.whoHas(name, err)
	}
	d.refreshLive(name)
	d.log.Info("volume rolled back", "snapshot", name+"@"+c.Snapshot, "kept_snapshot", rb.Snapshot)
	return protocol.RolledBack{Volume: d.volume(rb.Volume), KeptSnapshot: rb.Snapshot}, nil
}

// mayRollBack refuses a rollback under a device, in whatever state: what the kernel and its
// filesystems keep of a device would not be what the volume holds.
func (d *Daemon) mayRollBack(ctx context.Context, volume string) error {
	d.change.Lock()
	defer d.change.Unlock()
	if a, taken := d.table.Taken(volume); taken {
		return fmt.Errorf("volume %q: %w: attached as %s: %s; detach it first", volume, objstore.ErrInUse, a.Device, holders.OfDevice(a.Device))
	}
	if d.unlisted {
		return protocol.As(protocol.ErrBusy, errors.New("not all devices of the machine are known, and one of them may be this volume's; "+
			"start the daemon again where it can ask the driver"))
	}
	if d.isDaemon() {
		return nil
	}
	a, err := d.left(ctx, volume)
	if err == nil && a.Device != "" {
		err = fmt.Errorf("volume %q: %w: its device %s waits for a daemon; start one with `varve serve --background`, then detach it",
			volume, objstore.ErrInUse, a.Device)
	}
	return err
}

// left returns the device of a volume that a daemon has left, where no daemon runs; its Device is
// empty if there is none.
func (d *Daemon) left(ctx context.Context, volume string) (protocol.Attachment, error) {
	s, err := d.readOwnList()
	if err != nil {
		return protocol.Attachment{}, err
	}
	of := func(a protocol.Attachment) bool { return a.Volume == volume }
	if i := slices.IndexFunc(s.Attached, of); i >= 0 {
		return s.Attached[i], nil
	}
	found, err := machine.findOwn(ctx, d.inst, instance.Claims{Volumes: []string{volume}}, func(*blockdev.DeviceInfo) bool { return true })
	if len(found) > 0 {
		return found[0], nil
	}
	return protocol.Attachment{}, err
}
