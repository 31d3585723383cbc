package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/targets"
)

func (a *app) ublkAddCmd() *cobra.Command {
	var o targetFlags
	cmd := &cobra.Command{
		Use:   "add -t null|loop|stripe|mirror|nbd|qcow2 [FILE...|URI]",
		Short: "Serve a null, loop, stripe, mirror, nbd or qcow2 device",
		Long: `add makes a device, prints its node, and has the store's daemon serve it, or if none runs a process in the background.
With --foreground add serves it until Ctrl-C or SIGTERM. varve ublk del removes the device. The daemon's devices outlive
a restart and varve upgrade like those of volumes.

null completes every request at once and moves no data: reads leave the reader's memory unchanged. loop reads and writes
a file or block device. stripe deals its bytes out to two or more of them, in chunks: --format makes a new stripe;
without it the files are those of a stripe, in any order. mirror keeps the same bytes on each of two or more, and goes
on without one that fails; varve ublk add-leg brings it back. qcow2 reads and writes the disk in an image, over the
backing files that the image names. nbd is an export of an NBD server: nbd://HOST[:PORT]/EXPORT, nbds:// with TLS,
nbd+unix:///EXPORT?socket=PATH; the device survives lost connections and restarts of the server. A request is read and
written directly from its own pages, unless -u or --copy-mode asks for copies.

--zoned gives a null or loop device zones, which are written from their start on: --format makes a file a zoned disk.

A file that grows makes its loop device grow. If the process that serves the device dies, its I/O waits for varve ublk
recover; with -r 0 the device is dead then, and with -r=fail-io its I/O fails until it is recovered.`,
		Example: `  varve ublk add -t null --size 100G
  dev=$(varve ublk add -t loop -f disk.img -q 2)
  varve ublk add -t stripe --format --chunk-size 128K a.img b.img c.img
  varve ublk add -t qcow2 -f disk.qcow2
  varve ublk add -t mirror --format -f a.img -f b.img
  varve ublk add -t nbd nbd://storage/disk --connections 4 -q 4
  varve ublk add -t loop --zoned --format --zone-size 64M --max-open-zones 16 -f zoned.img
  varve ublk add -t loop -z -n 5 /dev/sdb --foreground`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.take(cmd, args); err != nil {
				return err
			}
			return a.serveTarget(cmd, "add", &o, startTarget)
		},
	}
	o.addNew(cmd)
	numberFlag(cmd, &o.device.ID, "the `number` N of /dev/ublkbN; any that is free by default")
	return a.jsonFlag(cmd)
}

// startTarget makes the device.
func startTarget(ctx context.Context, d *targets.Disk, bo blockdev.Options) (*blockdev.Device, error) {
	dev, err := blockdev.Start(ctx, d, bo)
	if err != nil {
		return nil, err
	}
	if err := dev.ScanPartitions(ctx); err != nil {
		bo.Logger.Warn("partitions may be missing", "device", dev.Path(), "error", err)
	}
	return dev, nil
}

func (a *app) ublkRecoverCmd() *cobra.Command {
	var o targetFlags
	number := noNumber
	cmd := &cobra.Command{
		Use:   "recover ID|-n ID [-t null|loop|stripe|mirror|nbd|qcow2 [-f FILE]...]",
		Short: "Serve a device of ublk add whose server has died",
		Long: `recover takes over a device of varve ublk add whose process was killed or quiesced: waiting I/O continues. What the
device is made of was noted when it was added; -t and -f say so where the note is lost. varve serve takes over the
devices of volumes.`,
		Example:           "  varve ublk recover 0\n  varve ublk recover -n 0 -t loop -f disk.img",
		ValidArgsFunction: completeDevice,
		Args:              oneDevice(&number),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := deviceOf(number, args)
			if err != nil {
				return err
			}
			if err := o.takeKnown(cmd, id); err != nil {
				return doing(fmt.Sprintf("recover ublk device %d", id), err)
			}
			return a.serveTarget(cmd, "recover", &o, func(ctx context.Context, d *targets.Disk, bo blockdev.Options) (*blockdev.Device, error) {
				return blockdev.Recover(ctx, id, d, bo)
			})
		},
	}
	o.add(cmd)
	numberFlag(cmd, &number, theNumber)
	return a.jsonFlag(cmd)
}

// takeKnown completes what is known of a device that is there.
func (o *targetFlags) takeKnown(cmd *cobra.Command, id int) error {
	i, err := withoutVolume(cmd.Context(), id, "varve serve, which takes it over")
	if err != nil {
		return err
	}
	if i.State == blockdev.StateDead {
		return fmt.Errorf("%w: it is dead: it was made without recovery (-r 0), or never started; varve ublk del removes it", blockdev.ErrInvalid)
	}
	if o.device.Type == "" && len(o.files) == 0 {
		d, known, err := targets.Noted(id)
		if err != nil || !known {
			return errors.Join(err, errNoFiles)
		}
		o.takeNoted(cmd, &d.TargetDevice)
	} else if err := o.take(cmd, nil); err != nil {
		return err
	}
	d := &o.device // what the device is counts, and not what was asked for
	d.ID, d.ReadOnly, d.BlockSize = id, i.ReadOnly, i.BlockSize
	d.Queues, d.Depth, d.Recovery = i.Queues, i.Depth, string(i.Recovery())
	if o.device.Type == "null" {
		o.device.Size = i.Size
	}
	if err := o.takeCopyMode(cmd); err != nil {
		return err
	}
	return o.device.Check()
}

// takeNoted completes what was noted of the device: what the command line says counts.
func (o *targetFlags) takeNoted(cmd *cobra.Command, d *protocol.TargetDevice) {
	given := o.device
	o.device = *d
	if cmd.Flags().Changed("copy-mode") {
		o.device.CopyMode = given.CopyMode
	}
	if cmd.Flags().Changed("buffered") {
		o.device.Buffered = given.Buffered
	}
	o.device.Degraded = given.Degraded
	if o.resyncFrom != "" {
		o.device.ResyncFrom = absolute(o.resyncFrom)
	}
}
