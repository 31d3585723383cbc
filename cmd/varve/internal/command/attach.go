package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
)

func (a *app) attachCmd() *cobra.Command {
	var r protocol.Attach
	cmd := &cobra.Command{
		Use:   "attach NAME[@SNAPSHOT]",
		Short: "Attach a volume or snapshot to a block device",
		Long: `attach creates a block device for the volume and returns when the device is usable. It prints the device node, and
nothing else, on standard output; notes go to standard error.

The device of a snapshot is read-only. With --writable the device accepts writes, which are discarded when it is
detached; the snapshot does not change. varve snapshot mount also mounts the snapshot's file system.

Do not use the device as swap: when memory runs out, the machine may hang for good.

The transport is ublk where the kernel has it, and otherwise a loop device over the volume's file in a private FUSE
mount, which is slower. The copy mode is how ublk moves data: zero (files are read and written directly from the
request's own pages), user (pread and pwrite for each request) or plain; auto uses the first that the kernel supports.`,
		Example: `  dev=$(varve attach data)
  mkfs.ext4 "$dev" && mount "$dev" /mnt
  varve attach data --transport ublk --queues 2 --depth 128
  varve attach data@monday --writable`,
		Args:              args("NAME"),
		ValidArgsFunction: a.completeVolumeOrSnapshot,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("attach volume %q", args[0])
			r.Volume = args[0]
			if strings.Contains(args[0], "@") {
				what = fmt.Sprintf("attach snapshot %q", args[0])
				var err error
				if r.Volume, r.Snapshot, err = protocol.SplitSnapshot(args[0]); err != nil {
					return usagef("%s: %w", what, err)
				}
			}
			if err := r.Check(); err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.openDaemon, func(c *client.Client) error {
				at, err := c.Attach(cmd.Context(), r)
				if err != nil {
					return doing(what, err)
				}
				writeNotes(cmd, at.Notes)
				if a.json {
					return writeJSON(cmd.OutOrStdout(), at)
				}
				fmt.Fprintln(cmd.OutOrStdout(), at.Device)
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Transport, "transport", "auto", strings.Join(protocol.Transports, ", "))
	deviceFlags(cmd, &r.CopyMode, &r.Queues, &r.Depth)
	f.BoolVar(&r.ReadOnly, "read-only", false, "refuse writes")
	f.BoolVar(&r.Writable, "writable", false, "accept writes to a snapshot's device, and discard them when it is detached")
	complete(cmd, "transport", protocol.Transports)
	return a.jsonFlag(cmd)
}

// deviceFlags adds the flags that all ublk devices have.
func deviceFlags(cmd *cobra.Command, copyMode *string, queues, depth *int) {
	f := cmd.Flags()
	f.StringVar(copyMode, "copy-mode", "auto", "how ublk moves data: "+strings.Join(protocol.CopyModes, ", "))
	f.IntVar(queues, "queues", 0, "`number` of queues, each with its own thread (0: the default)")
	f.IntVar(depth, "depth", 0, "largest `number` of requests in flight in a queue (0: the default)")
	complete(cmd, "copy-mode", protocol.CopyModes)
}

func complete(cmd *cobra.Command, flag string, values []string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag: a bug
	}
}

func (a *app) detachCmd() *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:   "detach NAME[@SNAPSHOT]|DEVICE",
		Short: "Remove the block device of a volume or snapshot",
		Long: `detach removes the device of a volume or snapshot, which is named by the volume, the snapshot or the device node. It
refuses while the device is mounted or open, and names its users. With --force the device is removed anyway, and I/O of
its users fails. Data already written is kept.`,
		Example:           "  varve detach data\n  varve detach /dev/ublkb0",
		Args:              args("NAME|DEVICE"),
		ValidArgsFunction: a.completeAttached,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("detach %q", args[0])
			if !strings.HasPrefix(args[0], "/") {
				check := protocol.CheckName
				if strings.Contains(args[0], "@") {
					check = func(name string) error { _, _, err := protocol.SplitSnapshot(name); return err }
				}
				if err := check(args[0]); err != nil {
					return usagef("%s: %w", what, err)
				}
			}
			return a.do(cmd.Context(), a.openDaemon, func(c *client.Client) error {
				at, err := c.Detach(cmd.Context(), protocol.Detach{Target: args[0], Force: force})
				return a.answer(cmd.OutOrStdout(), what, at, err)
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "detach a device that is in use")
	return a.jsonFlag(cmd)
}
