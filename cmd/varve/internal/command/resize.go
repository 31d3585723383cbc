package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
)

func (a *app) volumeResizeCmd() *cobra.Command {
	shrink := false
	cmd := &cobra.Command{
		Use:   "resize NAME SIZE",
		Short: "Change the size of a volume",
		Long: `resize changes the size of a volume. A size is written like 10G or 512MiB, in powers of 1024. Snapshots keep their
size.

A volume can grow while it is attached. Its device gets the new size at once if the kernel supports that (ublk since
Linux 6.16, and loop devices), and otherwise when the volume is attached again, as resize then says. The new part
reads as zeroes and takes no space. Then grow the file system, with resize2fs, xfs_growfs or btrfs filesystem resize.

A volume shrinks only with --shrink, and only while it is not attached and its live file is not open. Data beyond the
new size is dropped, except from snapshots. Shrink the file system first; XFS cannot be shrunk. If the volume grows
again, that part reads as zeroes.

After the first resize, versions of varve that cannot resize refuse to open the store.`,
		Example:           "  varve volume resize data 20G\n  varve volume resize data 5G --shrink",
		Args:              args("NAME", "SIZE"),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("resize volume %q", args[0])
			if err := protocol.CheckName(args[0]); err != nil {
				return usagef("%s: %w", what, err)
			}
			bytes, err := parseSize(args[1])
			if err != nil {
				return usagef("%s: %w", what, err)
			}
			r := protocol.ResizeVolume{Size: bytes, Shrink: shrink}
			if err := r.Check(); err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				v, err := c.ResizeVolume(cmd.Context(), args[0], r)
				writeNotes(cmd, v.Notes)
				return a.answer(cmd.OutOrStdout(), what, v, err)
			})
		},
	}
	cmd.Flags().BoolVar(&shrink, "shrink", false, "allow a smaller size, and drop what lies beyond it")
	return a.jsonFlag(cmd)
}
