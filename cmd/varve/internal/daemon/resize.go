package daemon

import (
	"context"
	"fmt"
	"net/http"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// serveResizeVolume resizes a volume, and then its device. If the daemon dies in between, the
// device is smaller than its volume; the next daemon resizes it when it takes the device over.
func (d *Daemon) serveResizeVolume(ctx context.Context, r *http.Request, c protocol.ResizeVolume) (protocol.Resized, error) {
	var none protocol.Resized
	name, err := volumeName(r)
	if err != nil {
		return none, err
	}
	before, err := d.store.VolumeInfo(name)
	if err != nil {
		return none, err
	}
	if c.Shrink && c.Size < before.Size {
		if err := d.mayRollBack(ctx, name); err != nil { // a waiting device would be larger than its volume
			return none, err
		}
	}
	v, err := d.store.ResizeVolume(ctx, name, c.Size, objstore.ResizeOptions{Shrink: c.Shrink})
	if err != nil {
		return none, d.whoHas(name, err)
	}
	d.log.Info("volume resized", "volume", name, "from", before.Size, "to", v.Size)
	out := protocol.Resized{Volume: d.volume(v), Notes: d.resizeDevice(ctx, name)}
	d.refreshLive(name)
	return out, nil
}

// resizeDevice resizes the device of a volume to the volume's size. If that fails, it returns notes
// for the user.
func (d *Daemon) resizeDevice(ctx context.Context, volume string) (notes []string) {
	ctx, give, err := d.turns.take(ctx, turnOf(volume)) // the device of a running attach has either size
	if err != nil {
		return []string{fmt.Sprintf("a device of the volume keeps its size until it is attached again: %v", err)}
	}
	defer give()
	v, err := d.store.VolumeInfo(volume)
	if err != nil {
		return nil // deleted meanwhile
	}
	for _, k := range d.table.Served() {
		if k.Volume != volume {
			continue
		}
		if err := k.Dev.Resize(ctx, v.Size); err != nil {
			d.log.Warn("a device keeps its size", "volume", volume, "device", k.Device, "error", err)
			notes = append(notes, fmt.Sprintf("%s keeps its size until the volume is attached again: %v", k.Device, err))
		}
	}
	return notes
}
