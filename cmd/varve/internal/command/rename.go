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
		Short: "Rename a volume",
		Long: `rename renames a volume, attached or not. Its device, mounted file systems and open files continue to work; commands,
and the directories volumes/ and snapshots/ of mounts, use the new name from then on.

A loop device refers to the volume's file by name: detach it first. After the first rename, versions of varve that
cannot rename refuse to open the store.`,
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
		Short: "Rename a snapshot",
		Long: `rename renames a snapshot. Its device, and open files in mounts, continue to work.

After the first rename, versions of varve that cannot rename refuse to open the store.`,
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
