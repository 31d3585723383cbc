package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// A device is bound to its volume by its mark in the driver, which a rename does not change
// (objstore.VolumeInfo.MarkName). The table of devices, which knows volumes by name, is renamed at
// once, and with it the list on disk. A list from before the rename, whose daemon died or did not
// do the rename, is corrected when it is read.

func (d *Daemon) serveRenameVolume(ctx context.Context, r *http.Request, c protocol.Rename) (protocol.Volume, error) {
	name, err := volumeName(r)
	if err != nil {
		return protocol.Volume{}, err
	}
	ctx, give, err := d.turns.take(ctx, turnOf(name), turnOf(c.To)) // no device is made meanwhile
	if err != nil {
		return protocol.Volume{}, err
	}
	defer give()
	d.naming.Lock()
	defer d.naming.Unlock()
	if a, taken := d.table.Taken(name); taken && a.Transport == "loop" {
		return protocol.Volume{}, protocol.As(objstore.ErrInUse, fmt.Errorf("volume %q: its device %s is a loop device, which knows "+
			"the volume's file by its name; detach it first", name, a.Device))
	}
	v, err := d.store.RenameVolume(ctx, name, c.To)
	if err != nil {
		return protocol.Volume{}, err
	}
	d.table.Rename(func(a protocol.Attachment) protocol.Attachment {
		if a.Volume == name {
			a.Volume = v.Name
		}
		if snap, of := strings.CutPrefix(a.Snapshot, name+"@"); of {
			a.Snapshot = v.Name + "@" + snap
		}
		return a
	})
	d.log.Info("volume renamed", "volume", name, "to", v.Name)
	return d.volume(v), nil
}

func (d *Daemon) serveRenameSnapshot(ctx context.Context, r *http.Request, c protocol.Rename) (objstore.SnapshotInfo, error) {
	of := protocol.CreateSnapshot{Volume: r.PathValue("volume"), Name: r.PathValue("name")}
	if err := of.Check(); err != nil {
		return objstore.SnapshotInfo{}, fmt.Errorf("%w: %w", objstore.ErrInvalid, err)
	}
	d.naming.Lock()
	defer d.naming.Unlock()
	s, err := d.store.RenameSnapshot(ctx, of.Volume, of.Name, c.To)
	if err != nil {
		return s, err
	}
	from, to := of.Volume+"@"+of.Name, s.Volume+"@"+s.Name
	d.table.Rename(func(a protocol.Attachment) protocol.Attachment {
		if a.Snapshot == from {
			a.Snapshot = to
		}
		return a
	})
	d.log.Info("snapshot renamed", "snapshot", from, "to", to)
	return s, nil
}

// renamed returns a device of the list with the current name of its volume.
func (d *Daemon) renamed(a protocol.Attachment) protocol.Attachment {
	if a.Mark == 0 {
		return a
	}
	v, err := d.store.VolumeInfo(a.Volume)
	if err == nil && d.marks(v, a.Mark) || err != nil && !errors.Is(err, objstore.ErrNotFound) {
		return a
	}
	for _, v := range d.store.Volumes() {
		if d.marks(v, a.Mark) {
			a.Volume = v.Name
			break
		}
	}
	return a
}

// marks reports whether devices of the volume have this mark.
func (d *Daemon) marks(v objstore.VolumeInfo, mark uint64) bool {
	return mark == d.inst.Mark(v.MarkName) || mark == d.inst.OldMark(v.MarkName)
}
