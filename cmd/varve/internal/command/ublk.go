package command

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/blockdev/target"
	"varve/blockdev/target/loop"
	"varve/blockdev/target/null"
	"varve/cmd/varve/internal/daemon"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
)

// ublkOptions of a device without a store.
type ublkOptions struct {
	target     string
	file       string
	size       size
	blockSize  size
	buffered   bool
	copyMode   string
	queues     int
	depth      int
	readOnly   bool
	background bool
	logFile    string
}

func (a *app) ublkCmd() *cobra.Command {
	return newGroup(&cobra.Command{
		Use:   "ublk",
		Short: "Manage ublk devices: null and loop targets, and all devices of this machine",
		Long: `ublk manages devices without a store: the targets null and loop, which show the cost of a device by itself. list
shows all ublk devices of this machine, whichever program serves them; del deletes one.`,
		Example: "  varve ublk add --target null --size 10G --background\n  varve ublk list\n  varve ublk del 0",
	}, a.ublkAddCmd(), a.ublkListCmd(), a.ublkDelCmd(), a.ublkRecoverCmd(), a.featuresCmd())
}

func (a *app) ublkAddCmd() *cobra.Command {
	var o ublkOptions
	o.size, o.blockSize = 1<<30, 512
	cmd := &cobra.Command{
		Use:   "add --target null|loop",
		Short: "Serve a null or loop device",
		Long: `add prints the device node and serves the device until Ctrl-C, SIGTERM or varve ublk del. null completes every
request at once and moves no data: reads leave the reader's memory unchanged. loop reads and writes a file.`,
		Example: `  varve ublk add --target null --size 100G
  dev=$(varve ublk add --target loop --file disk.img --background)`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			return o.run(cmd, func(ctx context.Context, t target.Target, bo blockdev.Options) (*blockdev.Device, error) {
				bo.ID, bo.Queues, bo.Depth = -1, o.queues, o.depth
				dev, err := blockdev.Start(ctx, t, bo)
				if err != nil {
					return nil, err
				}
				if err := dev.ScanPartitions(ctx); err != nil {
					bo.Logger.Warn("partitions may be missing", "device", dev.Path(), "error", err)
				}
				return dev, nil
			})
		},
	}
	o.targetFlags(cmd)
	f := cmd.Flags()
	f.Var(&o.size, "size", "size of a null device")
	f.IntVar(&o.queues, "queues", 0, "`number` of queues, each with its own thread (0: the default)")
	f.IntVar(&o.depth, "depth", 0, "largest `number` of requests in flight in a queue (0: the default)")
	f.BoolVar(&o.readOnly, "read-only", false, "refuse writes")
	return cmd
}

// targetFlags adds the flags that add and recover have in common.
func (o *ublkOptions) targetFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.target, "target", "", "null or loop")
	f.StringVar(&o.file, "file", "", "the `file` or block device of a loop device")
	f.Var(&o.blockSize, "block-size", "logical block size: 512 or 4096")
	f.BoolVar(&o.buffered, "buffered", false, "read and write the file through the page cache")
	f.StringVar(&o.copyMode, "copy-mode", "auto", "how ublk moves data: "+strings.Join(protocol.CopyModes, ", "))
	f.BoolVar(&o.background, backgroundFlag, false, "return when the device is usable, and serve it in the background")
	f.StringVar(&o.logFile, "log-file", "/dev/null", "the log's `file` with --background")
	complete(cmd, "target", []string{"null", "loop"})
	complete(cmd, "copy-mode", protocol.CopyModes)
}

func (o *ublkOptions) check(cmd *cobra.Command) error {
	if err := protocol.CheckDevice(o.copyMode, o.queues, o.depth); err != nil {
		return &usageError{err}
	}
	switch {
	case o.target == "":
		return usagef("--target is missing; use null or loop")
	case o.target != "null" && o.target != "loop":
		return usagef("target %q; use null or loop", o.target)
	case o.target == "loop" && o.file == "":
		return usagef("--file is missing: a loop device needs a file")
	case o.target == "null" && o.file != "":
		return usagef("--file is for the target loop")
	case o.target == "loop" && cmd.Flags().Changed("size"):
		return usagef("--size is for the target null: a loop device has the size of its file")
	case o.blockSize != 512 && o.blockSize != 4096:
		return usagef("block size %s; use 512 or 4096", o.blockSize.String())
	case o.target == "null" && (o.size <= 0 || o.size%o.blockSize != 0):
		return usagef("size %s is not a positive multiple of the block size %s", o.size.String(), o.blockSize.String())
	}
	if o.file == "" {
		return nil
	}
	abs, err := filepath.Abs(o.file) // a process in the background has another working directory
	if err != nil {
		return fmt.Errorf("file %q: %w", o.file, err)
	}
	o.file = abs
	return nil
}

// run serves the device that begin starts, in this process or in the background.
func (o *ublkOptions) run(cmd *cobra.Command,
	begin func(context.Context, target.Target, blockdev.Options) (*blockdev.Device, error),
) (err error) {
	if o.background {
		said, err := startInBackground(withoutBackground(cmd), o.logFile)
		if err != nil {
			return err
		}
		node, notes, _ := strings.Cut(said, "\n")
		if notes != "" {
			writeNotes(cmd, strings.Split(notes, "\n"))
		}
		fmt.Fprintln(cmd.OutOrStdout(), node)
		return nil
	}
	say := readyPipe()
	defer func() {
		if err != nil {
			say(err.Error())
		}
	}()
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	target, closeTarget, err := o.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeTarget()) }()
	log, err := newLogger(cmd.ErrOrStderr(), "info", "text")
	if err != nil {
		return err
	}
	defer daemon.PrepareProcess(log, daemon.ProcessOptions{})()
	dev, err := begin(ctx, target, blockdev.Options{
		CopyMode: blockdev.CopyMode(o.copyMode), ReadOnly: o.readOnly, Owner: instance.Standalone, Logger: log,
	})
	if err != nil {
		return doing("serve "+o.target+" device", err)
	}
	log.Info("ready", "device", dev.Path(), "target", o.target, "copy_mode", dev.Mode(), "queues", dev.Queues(), "depth", dev.Depth())
	notes := daemon.LessThanAsked(o.queues, o.depth, dev.Queues(), dev.Depth())
	writeNotes(cmd, notes)
	fmt.Fprintln(cmd.OutOrStdout(), dev.Path())
	say(strings.Join(append([]string{readyWord + " " + dev.Path()}, notes...), "\n"))
	return awaitDevice(ctx, dev)
}

func (o *ublkOptions) open() (target.Target, func() error, error) {
	if o.target == "null" {
		return null.New(int64(o.size), int(o.blockSize)), func() error { return nil }, nil
	}
	l, err := loop.Open(o.file, loop.Options{
		BlockSize: int(o.blockSize), ReadOnly: o.readOnly, Buffered: o.buffered,
	})
	if err != nil {
		return nil, nil, err
	}
	return l, l.Close, nil
}

// awaitDevice waits for a signal or the device's end. A device that is open at the signal is left
// for varve ublk recover.
func awaitDevice(ctx context.Context, dev *blockdev.Device) error {
	select {
	case <-dev.Done():
		return dev.Wait()
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err := dev.Stop(ctx, false)
	if errors.Is(err, blockdev.ErrBusy) {
		err = errors.Join(fmt.Errorf("%s is in use (%s): its I/O waits for `varve ublk recover %d`, or `varve ublk del %d --force`",
			dev.Path(), holders.OfDevice(dev.Path()), dev.ID(), dev.ID()), dev.Quiesce(ctx))
	}
	return err
}

func (a *app) ublkRecoverCmd() *cobra.Command {
	var o ublkOptions
	o.blockSize = 512
	cmd := &cobra.Command{
		Use:   "recover ID --target null|loop",
		Short: "Serve a null or loop device whose server has died",
		Long: `recover takes over a device of varve ublk add whose process was killed: waiting I/O continues. Target and file must
be those that the device was added with. varve serve takes over the devices of volumes.`,
		Example: "  varve ublk recover 0 --target loop --file disk.img --background",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := deviceID(args[0])
			if err != nil {
				return err
			}
			i, err := blockdev.Info(cmd.Context(), id)
			if err != nil {
				return doing(fmt.Sprintf("recover ublk device %d", id), err)
			}
			if i.Owner != instance.Standalone {
				return fmt.Errorf("recover ublk device %d: it was not created by varve ublk add; if it belongs to a volume, run varve serve", id)
			}
			o.size, o.readOnly, o.blockSize = size(i.Size), i.ReadOnly, size(i.BlockSize)
			if err := o.check(cmd); err != nil {
				return err
			}
			return o.run(cmd, func(ctx context.Context, t target.Target, bo blockdev.Options) (*blockdev.Device, error) {
				return blockdev.Recover(ctx, id, t, bo)
			})
		},
	}
	o.targetFlags(cmd)
	return cmd
}
