package daemon

import (
	"context"
	"fmt"
	"net/http"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// A foreign device is in the list of a store but not the store's: the list was copied with the
// store, or the store was moved. The device is left alone, and shown, until the user says which it
// is.

// howToDecide tells the user how to say that.
const howToDecide = "if the store was moved: varve stop, varve set --moved; if it is a copy: varve set --new-uuid"

// leaveForeign enters the foreign devices that still exist into the table.
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

// foreignNotes are for the user who attaches a volume that another store has attached too.
func (d *Daemon) foreignNotes(volume string) []string {
	var notes []string
	for _, a := range d.table.Foreign() {
		if a.Volume == volume {
			notes = append(notes, fmt.Sprintf("%s is not this store's device of volume %q: %s; %s", a.Device, volume, a.Error, howToDecide))
		}
	}
	return notes
}

// foreignTo returns an error if the target of a detach is a foreign device.
func (d *Daemon) foreignTo(target, node string) error {
	for _, a := range d.table.Foreign() {
		if a.Volume == target || a.Device == node {
			return protocol.As(objstore.ErrNotFound, fmt.Errorf("%s (volume %q) is not this store's: %s; %s", a.Device, a.Volume, a.Error, howToDecide))
		}
	}
	return nil
}

// serveIdentity records what the user says about the store: that it is a copy, or was moved.
func (d *Daemon) serveIdentity(ctx context.Context, _ *http.Request, r protocol.Identity) (protocol.Identified, error) {
	none := protocol.Identified{}
	ctx, give, err := d.turns.take(ctx, turnOfIdentity)
	if err != nil {
		return none, err
	}
	defer give()
	var ans protocol.Identified
	from := objstore.CopiedFrom(r.CopiedFrom)
	if r.Moved {
		if d.isDaemon() {
			return none, errDaemonRuns
		}
		if ans.Devices, err = d.identity.moved(ctx); err != nil {
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
		err = d.identity.adopt()
	}
	if err == nil && r.NewUUID {
		err = d.identity.renew(d.isDaemon())
	}
	if err != nil {
		return none, err
	}
	ans.UUID = d.identity.UUID()
	for i := range ans.Devices {
		ans.Devices[i] = ans.Devices[i].Shown()
	}
	return ans, nil
}
