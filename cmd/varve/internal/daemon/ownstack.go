package daemon

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"varve/blockdev"
	"varve/cmd/varve/internal/blockstack"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// A store must not lie on one of its own devices: a write to the device would wait for a write to
// the store, and that for the device. It happens by accident: when a varve device is added to a
// volume group or to a btrfs, or when a store is copied to a volume of the original.

// mayLieOn returns an error if the store lies on a device, or in a mount, of this daemon. If that
// cannot be found out, it logs so and returns nil.
func (d *Daemon) mayLieOn(volume string) error {
	layers, err := d.below(d.location())
	if err != nil {
		d.log.Warn("what the store lies on is unknown; it must not lie on its own devices", "error", err)
		return nil
	}
	nodes := d.ownNodes()
	for _, l := range layers {
		own, ours := nodes.holds(l)
		if !ours {
			continue
		}
		what := "a mount of its own"
		switch {
		case own != "":
			what = fmt.Sprintf("its own volume %q", own)
		case nodes.targets[l.Path]:
			what = "a device that its daemon serves"
		}
		return protocol.As(objstore.ErrInvalid, fmt.Errorf(
			"volume %q: the store %s lies on %s: that is %s, and its I/O would wait for itself; move the store to another disk",
			volume, d.dir, l, what))
	}
	return nil
}

// ownNodes are the device nodes and mount points of a daemon.
type ownNodes struct {
	volumes map[string]string // by node, "" for a mount point and a device without a volume
	targets map[string]bool   // the devices without a volume
	private string            // the directory of the private mounts, by volume
}

func (d *Daemon) ownNodes() ownNodes {
	own := ownNodes{map[string]string{}, map[string]bool{}, privateDir(d.inst) + "/"}
	for _, a := range d.table.All() {
		own.volumes[a.Device] = a.Volume
	}
	for _, m := range d.mounts.list() {
		own.volumes[m.Dir] = ""
	}
	for _, k := range d.targets.all() {
		own.volumes[k.dev.Path()], own.targets[k.dev.Path()] = "", true
	}
	return own
}

// holds reports whether a layer is one of the nodes, and returns the volume behind it, or "" for a
// mount or a device without a volume.
func (o ownNodes) holds(l blockstack.Layer) (volume string, ours bool) {
	if volume, ours = strings.CutPrefix(l.Path, o.private); ours {
		return volume, true
	}
	volume, ours = o.volumes[l.Path]
	return volume, ours
}

// mayOpen returns an error if the store lies on a ublk device without a server: opening it would
// wait forever, for itself if the device is its own.
func mayOpen(ctx context.Context, dir string, below func(string) ([]blockstack.Layer, error),
	info func(context.Context, int) (blockdev.DeviceInfo, error),
) error {
	layers, err := below(dir)
	if err != nil {
		return nil //nolint:nilerr // opening the store will fail with the reason
	}
	for _, l := range layers {
		id, err := strconv.Atoi(strings.TrimPrefix(l.Path, "/dev/ublkb"))
		if err != nil {
			continue
		}
		i, err := info(ctx, id)
		if err == nil && i.Orphan() {
			return fmt.Errorf("open store %s: it lies on %s, which waits for its server, pid %d, that is gone: reading it would wait for ever; "+
				"start that server first, and keep no store on a device of its own", dir, l, i.ServerPID)
		}
		if err != nil && !errors.Is(err, blockdev.ErrNoDevice) && !errors.Is(err, blockdev.ErrPermission) && !errors.Is(err, blockdev.ErrNoUblk) {
			return fmt.Errorf("open store %s on %s: %w", dir, l, err)
		}
	}
	return nil
}
