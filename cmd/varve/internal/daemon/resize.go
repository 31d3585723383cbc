package daemon

import (
	"context"
	"fmt"
	"net/http"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// serveResizeVolume gives a volume another size, and then its device. A daemon that dies in between
// leaves a device that is smaller than its volume; the next one gives it the size when it takes the
// device over.
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
		if err := d.mayRollBack(ctx, name); err != nil { // a device that waits would be larger than its volume
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

// resizeDevice gives the device of a volume the volume's size. It returns what the user has to know
// if that can't be.
func (d *Daemon) resizeDevice(ctx context.Context, volume string) (notes []string) {
	d.change.Lock() // a device that is being attached has begun with either size
	defer d.change.Unlock()
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
