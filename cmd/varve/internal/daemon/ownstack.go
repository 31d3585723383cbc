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

// A store must not lie on one of its own devices: a write to the device would wait for a write to the store, and that
// one for the device. Nobody makes such a thing on purpose; a volume group that takes a varve device in, a btrfs to
// which one is added, or a copy of a store on a volume of the first do.

// mayLieOn refuses to attach while the store lies on a device, or in a mount, of this daemon; change is held. What
// can't be found out is logged.
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
		if own != "" {
			what = fmt.Sprintf("its own volume %q", own)
		}
		return protocol.As(objstore.ErrInvalid, fmt.Errorf(
			"volume %q: the store %s lies on %s: that is %s, and its I/O would wait for itself; move the store to another disk",
			volume, d.dir, l, what))
	}
	return nil
}

// ownNodes are the device nodes and mount points of a daemon.
type ownNodes struct {
	volumes map[string]string // by node, "" for a mount point
	private string            // the directory of the private mounts, by volume
}

func (d *Daemon) ownNodes() ownNodes {
	own := ownNodes{map[string]string{}, privateDir(d.inst) + "/"}
	for _, a := range d.table.All() {
		own.volumes[a.Device] = a.Volume
	}
	for _, m := range d.mounts.list() {
		own.volumes[m.Dir] = ""
	}
	return own
}

// holds says whether a layer is one of the nodes, and the volume behind it; "" for a mount.
func (o ownNodes) holds(l blockstack.Layer) (volume string, ours bool) {
	if volume, ours = strings.CutPrefix(l.Path, o.private); ours {
		return volume, true
	}
	volume, ours = o.volumes[l.Path]
	return volume, ours
}

// mayOpen refuses a store that lies on a ublk device without a server: opening it would wait for ever, and where the
// device is its own, for itself.
func mayOpen(ctx context.Context, dir string, below func(string) ([]blockstack.Layer, error),
	info func(context.Context, int) (blockdev.DeviceInfo, error),
) error {
	layers, err := below(dir)
	if err != nil {
		return nil //nolint:nilerr // the opening will say what is wrong with the directory
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
