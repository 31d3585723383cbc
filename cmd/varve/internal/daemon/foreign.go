package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// A foreign device is in the list of a store and not the store's: the list was copied with it, or the store was moved.
// It is left alone, and shown, until somebody says which it is.

// howToDecide is what to say, and when.
const howToDecide = "if the store was moved: varve stop, varve set --moved; if it is a copy: varve set --new-uuid"

// leaveForeign keeps what is foreign in the lists, as far as it is still there.
func (d *Daemon) leaveForeign(ctx context.Context, s *devices.List) {
	var found []protocol.Attachment
	for _, t := range d.transports {
		found = append(found, t.Foreign(ctx, s.Foreign, s.Claims())...)
	}
	for _, a := range found {
		d.log.Warn("device is left alone", "volume", a.Volume, "device", a.Device, "reason", a.Error, "hint", howToDecide)
	}
	d.table.SetForeign(found)
}

// foreignNotes tell who attaches a volume that another store has attached too.
func (d *Daemon) foreignNotes(volume string) []string {
	var notes []string
	for _, a := range d.table.Foreign() {
		if a.Volume == volume {
			notes = append(notes, fmt.Sprintf("%s is not this store's device of volume %q: %s; %s", a.Device, volume, a.Error, howToDecide))
		}
	}
	return notes
}

// foreignTo says why a target is not ours to detach; nil: it is not foreign.
func (d *Daemon) foreignTo(target, node string) error {
	for _, a := range d.table.Foreign() {
		if a.Volume == target || a.Device == node {
			return protocol.As(objstore.ErrNotFound, fmt.Errorf("%s (volume %q) is not this store's: %s; %s", a.Device, a.Volume, a.Error, howToDecide))
		}
	}
	return nil
}

// serveIdentity takes note of what somebody says of the store.
func (d *Daemon) serveIdentity(ctx context.Context, _ *http.Request, r protocol.Identity) (protocol.Identified, error) {
	none := protocol.Identified{}
	d.change.Lock()
	defer d.change.Unlock()
	var ans protocol.Identified
	var err error
	from := objstore.CopiedFrom(r.CopiedFrom)
	if r.Moved {
		if ans.Devices, err = d.mayHaveMoved(ctx); err != nil {
			return none, err
		}
		from = objstore.CopiedStopped
	}
	if from != "" {
		if ans.Volumes, err = d.store.AcceptCopies(ctx, from); err != nil {
			return none, err
		}
	}
	if r.Moved {
		err = d.adopt()
	}
	if err == nil && r.NewUUID {
		err = d.newUUID()
	}
	if err != nil {
		return none, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ans.UUID = d.uuid
	for i := range ans.Devices {
		ans.Devices[i] = ans.Devices[i].Shown()
	}
	return ans, nil
}

// mayHaveMoved returns the devices that a moved store gets back.
func (d *Daemon) mayHaveMoved(ctx context.Context) ([]protocol.Attachment, error) {
	if d.isDaemon() {
		return nil, protocol.As(protocol.ErrBusy, errors.New("its daemon has begun to serve the store as another one; stop it first: varve stop"))
	}
	s, err := d.readOwnList()
	if err != nil {
		return nil, err
	}
	list, err := machine.devices(ctx)
	if err != nil {
		return nil, err
	}
	var waiting []protocol.Attachment
	claims := instance.Claims{Noted: s.Foreign}
	foreign := claims.Index(d.inst)
	for _, i := range list {
		volume, noted := foreign.Volume(&i)
		switch {
		case !noted:
		case i.ServerAlive:
			return nil, protocol.As(protocol.ErrBusy, fmt.Errorf("%s (volume %q) is served by process %d: the store that has attached it "+
				"is still there, and this one is a copy", i.Path, volume, i.ServerPID))
		default:
			waiting = append(waiting, protocol.Attachment{Volume: volume, Device: i.Path, Transport: "ublk", ID: i.ID})
		}
	}
	return waiting, nil
}

// adopt makes the store's own what was foreign.
func (d *Daemon) adopt() error {
	s, err := d.readOwnList()
	if err != nil {
		return err
	}
	for _, a := range s.Foreign {
		if !ofVolume(s.Attached, a.Volume) {
			s.Attached = append(s.Attached, a)
		}
	}
	s.Foreign = nil
	if err := d.writeList(s); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.table.SetForeign(nil)
	return nil
}

// newUUID gives the store another UUID, and lets go of what is foreign.
func (d *Daemon) newUUID() error {
	uuid, err := d.store.NewUUID()
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.uuid = uuid
	d.mu.Unlock()
	d.table.SetForeign(nil)
	d.log.Info("the store has a new UUID", "uuid", uuid)
	if d.isDaemon() {
		return nil
	}
	s, err := d.readOwnList()
	if err != nil {
		return err
	}
	s.Foreign = nil
	return d.writeList(s)
}

// readOwnList is the list of devices as far as it is this store's.
func (d *Daemon) readOwnList() (devices.List, error) {
	s, err := devices.ReadList(d.files)
	if err == nil {
		s.Bind(d.inst, boot(d.log))
	}
	return s, err
}

func (d *Daemon) writeList(s devices.List) error {
	s.Store, s.Instance, s.Boot = d.inst.UUID, d.inst.ID, boot(d.log)
	for i := range s.Attached {
		s.Attached[i].State, s.Attached[i].Error = "", ""
	}
	return s.Write(d.files)
}

// ofVolume reports whether a list has a device of the volume.
func ofVolume(list []protocol.Attachment, volume string) bool {
	return slices.ContainsFunc(list, func(a protocol.Attachment) bool { return a.Volume == volume })
}
