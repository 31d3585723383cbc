package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
)

func (a *app) volumeCloneCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clone NAME[@SNAPSHOT] NEW",
		Short: "Create a volume from a snapshot or a volume",
		Long: `clone creates the volume NEW with the content of a snapshot. It copies nothing, and the clone takes no space until it
is written to. The clone has the size, block size and --verify setting of its origin, and is independent of it: either
can be deleted.

Without @SNAPSHOT the clone has the volume's current content: everything that was written to the volume before the
call, even while the volume is in use. No snapshot is left behind. As with a snapshot, run sync or fsfreeze(8) first
to include what a file system still has in memory.

Recently written data has to settle first; clone waits for that, and is instant otherwise. To make many clones, clone
a snapshot that has settled.

A file system in a clone has the UUID of its original. To mount both at once, XFS needs mount -o nouuid or a new UUID
(xfs_admin -U generate); see also btrfstune -m, tune2fs -U random, and vgimportclone for LVM.`,
		Example: `  varve volume clone golden@release vm-17
  varve volume clone data data-copy`,
		Args:              args("NAME[@SNAPSHOT]", "NEW"),
		ValidArgsFunction: a.completeVolumeOrSnapshot,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("clone %q as %q", args[0], args[1])
			volume, r := args[0], protocol.CloneVolume{Name: args[1]}
			err := protocol.CheckName(volume)
			if strings.Contains(args[0], "@") {
				volume, r.Snapshot, err = protocol.SplitSnapshot(args[0])
			}
			if err == nil {
				err = r.Check()
			}
			if err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				v, err := c.CloneVolume(cmd.Context(), volume, r)
				return a.answer(cmd.OutOrStdout(), what, v, err)
			})
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) volumeRollbackCmd() *cobra.Command {
	drop := false
	cmd := &cobra.Command{
		Use:   "rollback VOLUME@SNAPSHOT",
		Short: "Return a volume to a snapshot",
		Long: `rollback returns a volume to a snapshot, in constant time. It keeps the current state as a snapshot named after the
time (rollback-20261128T031500Z), and prints that name; with --no-snapshot the current state is dropped. Other
snapshots stay.

rollback refuses while the volume is attached or its live file is open, and names the users. Recently written data has
to settle before it can be kept; rollback waits for that.`,
		Example: `  varve volume rollback data@monday
  before=$(varve volume rollback data@monday)
  varve volume rollback data@monday --no-snapshot`,
		Args:              args("VOLUME@SNAPSHOT"),
		ValidArgsFunction: a.completeSnapshot,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("roll back to %q", args[0])
			volume, snap, err := protocol.SplitSnapshot(args[0])
			if err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				r, err := c.RollbackVolume(cmd.Context(), volume, protocol.RollbackVolume{Snapshot: snap, NoSnapshot: drop})
				switch {
				case err != nil:
					return doing(what, err)
				case a.json:
					return writeJSON(cmd.OutOrStdout(), r)
				case r.KeptSnapshot != "":
					fmt.Fprintln(cmd.OutOrStdout(), volume+"@"+r.KeptSnapshot)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&drop, "no-snapshot", false, "do not keep the current state as a snapshot")
	return a.jsonFlag(cmd)
}
