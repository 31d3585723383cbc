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
		Short: "Put a volume or snapshot on a device node",
		Long: `attach starts a block device over the volume, and returns when it is usable. It prints the device node alone;
notes go to standard error.

The device of a snapshot is read-only. With --writable it can be written to, and what is written is gone when it is
detached; the snapshot stays as it is. varve snapshot mount mounts its file system as well.

Do not swap to the device: when memory runs out, the machine may stop for good.

The transport is ublk where the kernel has it, or else a loop device over the volume's file in a private FUSE mount,
which does the same and is slower. The copy mode is how ublk moves data: zero (the request's own pages are read and
written), user (pread and pwrite per request) or plain; auto takes the first that the kernel has.`,
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
	f.BoolVar(&r.Writable, "writable", false, "take writes to a snapshot's device, and throw them away when it is detached")
	complete(cmd, "transport", protocol.Transports)
	return a.jsonFlag(cmd)
}

// deviceFlags are what every ublk device can be told.
func deviceFlags(cmd *cobra.Command, copyMode *string, queues, depth *int) {
	f := cmd.Flags()
	f.StringVar(copyMode, "copy-mode", "auto", "how ublk moves data: "+strings.Join(protocol.CopyModes, ", "))
	f.IntVar(queues, "queues", 0, "`number` of queues, each with a thread of its own (0: the default)")
	f.IntVar(depth, "depth", 0, "`number` of requests that a queue has in flight (0: the default)")
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
		Short: "Take a device node away",
		Long: `detach ends the device of a volume or snapshot, named by that or by the device node. It refuses while the device is
mounted or open, and says by whom; with --force it goes, and I/O of its users fails. What was written is kept.`,
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
				if err != nil {
					return doing(what, err)
				}
				if a.json {
					return writeJSON(cmd.OutOrStdout(), at)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "detach a device that is in use")
	return a.jsonFlag(cmd)
}
