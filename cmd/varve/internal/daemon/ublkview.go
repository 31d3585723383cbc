package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"varve/blockdev"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
)

// ublkClass has an entry for each ublk device of the machine. It exists only if the driver is
// loaded.
const ublkClass = "/sys/class/ublk-char"

// errHidden: the machine has ublk devices, but this process is not allowed to ask the driver about
// them.
var errHidden = errors.New("the machine has ublk devices, and this process can't ask whose they are: " +
	"it has no access to /dev/ublk-control, as in a container")

// view is a way to see the machine's ublk devices.
type view struct {
	list  func(context.Context) ([]blockdev.DeviceInfo, error)
	class string // ublkClass
}

// machine is the view of commands.
var machine = view{list: blockdev.List, class: ublkClass}

// devices lists the machine's ublk devices; none if the driver cannot be asked, see hidden.
func (v view) devices(ctx context.Context) ([]blockdev.DeviceInfo, error) {
	list, err := v.list(ctx)
	if errors.Is(err, blockdev.ErrNoUblk) || errors.Is(err, blockdev.ErrPermission) {
		return nil, nil
	}
	return list, err
}

// hidden reports whether there may be devices that devices does not list, because the driver cannot
// be asked, and the machine has devices or does not tell.
func (v view) hidden(ctx context.Context) bool {
	if _, err := v.list(ctx); !errors.Is(err, blockdev.ErrNoUblk) && !errors.Is(err, blockdev.ErrPermission) {
		return false
	}
	entries, err := os.ReadDir(v.class)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(filepath.Dir(v.class)) // no driver, or no sysfs
	}
	return err != nil || len(entries) > 0
}

// findOwn lists the devices of a store, as far as selected returns true for them. After an error
// some may be missing.
func (v view) findOwn(ctx context.Context, in instance.Instance, c instance.Claims, selected func(*blockdev.DeviceInfo) bool) ([]protocol.Attachment, error) {
	list, err := v.devices(ctx)
	return ownOf(list, in, c, selected), err
}

// ownOf returns the devices of a store in a list for which selected returns true.
func ownOf(list []blockdev.DeviceInfo, in instance.Instance, c instance.Claims, selected func(*blockdev.DeviceInfo) bool) []protocol.Attachment {
	own := c.Index(in)
	var found []protocol.Attachment
	for _, i := range list {
		if volume, ours := own.Volume(&i); ours && selected(&i) {
			found = append(found, protocol.Attachment{
				Volume: volume, Device: i.Path, Transport: "ublk", ID: i.ID, CopyMode: string(i.CopyMode), Mark: i.Owner,
				Queues: i.Queues, Depth: i.Depth, ReadOnly: i.ReadOnly, Since: time.Now().UTC().Truncate(time.Second),
			})
		}
	}
	return found
}
