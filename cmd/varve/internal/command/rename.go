package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
)

func (a *app) volumeRenameCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rename OLD NEW",
		Short: "Give a volume another name",
		Long: `rename gives a volume another name, attached or not. Its device, what is mounted, and files that are open in a mount
go on; names that are looked up from now on are new, in commands and below volumes/ and snapshots/ in mounts.

A loop device knows the volume's file by its name: detach it first. Versions of varve from before volumes were renamed
refuse the store from the first rename on.`,
		Example:           "  varve volume rename data archive",
		Args:              args("OLD", "NEW"),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("rename volume %q to %q", args[0], args[1])
			err := protocol.CheckName(args[0])
			if err == nil {
				err = protocol.Rename{To: args[1]}.Check()
			}
			if err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				v, err := c.RenameVolume(cmd.Context(), args[0], args[1])
				return a.answer(cmd.OutOrStdout(), what, v, err)
			})
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) snapshotRenameCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rename VOLUME@OLD NEW",
		Short: "Give a snapshot another name",
		Long: `rename gives a snapshot another name. Its device, and its files that are open in a mount, go on.

Versions of varve from before snapshots were renamed refuse the store from the first rename on.`,
		Example:           "  varve snapshot rename data@rollback-20261128T031500Z before-upgrade",
		Args:              args("VOLUME@OLD", "NEW"),
		ValidArgsFunction: a.completeSnapshot,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("rename snapshot %q to %q", args[0], args[1])
			volume, snap, err := protocol.SplitSnapshot(args[0])
			if err == nil {
				err = protocol.Rename{To: args[1]}.Check()
			}
			if err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				s, err := c.RenameSnapshot(cmd.Context(), volume, snap, args[1])
				return a.answer(cmd.OutOrStdout(), what, s, err)
			})
		},
	}
	return a.jsonFlag(cmd)
}
