package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"varve/blockdev/devnode"
)

func blockPath(id int) string { return fmt.Sprintf("/dev/ublkb%d", id) }
func charPath(id int) string  { return fmt.Sprintf("/dev/ublkc%d", id) }

// nodes returns the two nodes of a device, by the device numbers that the driver reports. The block
// device has a node once the device was started.
func nodes(ctx context.Context, c *control, id int) (char, block devnode.Node, err error) {
	p, err := c.getParams(ctx, id)
	if err == nil && p.types&_UBLK_PARAM_TYPE_DEVT == 0 {
		err = errors.New("the driver does not report the device's numbers before Linux 6.3")
	}
	char = devnode.Node{Path: charPath(id), Char: true, Major: p.devt.char_major, Minor: p.devt.char_minor}
	block = devnode.Node{Path: blockPath(id), Major: p.devt.disk_major, Minor: p.devt.disk_minor}
	return char, block, err
}

// openChar opens the device's character device, and no other file, once the driver permits it.
func (d *Device) openChar(ctx context.Context) error {
	n, _, err := nodes(ctx, d.ctl, d.id)
	if err == nil {
		err = d.awaitNode(ctx, &n)
	}
	if err != nil {
		return err
	}
	return retry(ctx, quickCommand, func() (bool, error) {
		fd, err := n.Open(unix.O_RDWR)
		if err == nil {
			d.char = os.NewFile(uintptr(fd), n.Path)
		}
		// The predecessor's file may still be closing.
		return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENXIO), err
	})
}

// awaitDisk waits until the path of the block device leads to the block device.
func (d *Device) awaitDisk(ctx context.Context) error {
	_, n, err := nodes(ctx, d.ctl, d.id)
	if err == nil {
		err = d.awaitNode(ctx, &n)
	}
	return err
}

func (d *Device) awaitNode(ctx context.Context, n *devnode.Node) error {
	ctx, cancel := context.WithTimeout(ctx, quickCommand)
	defer cancel()
	made, err := n.Await(ctx)
	if made {
		d.log.Warn("no device manager has made the device's node, so this process has", "node", n.Path)
		d.made = append(d.made, *n)
	}
	return err
}

// removeNodes removes the nodes that no device manager removes, once the device is gone.
func (d *Device) removeNodes() {
	for i := range d.made {
		if err := d.made[i].Remove(); err != nil {
			d.log.Warn("the device's node can't be removed", "node", d.made[i].Path, "err", err)
		}
	}
}
