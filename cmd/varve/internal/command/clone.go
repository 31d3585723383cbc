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
		Short: "Create a volume that begins with what a snapshot or a volume holds",
		Long: `clone creates the volume NEW, which begins with what a snapshot holds. It copies nothing and takes no space until it is
written to. It has the size, block size and --verify of its origin, and does not depend on it: either may be deleted.

Without @SNAPSHOT the clone begins with what the volume holds now: everything that was written to the volume before the
call, even while the volume is in use. No snapshot is left over. As with a snapshot, sync first, or use fsfreeze(8), for
what a file system still has in memory.

Data that was written recently has to settle first; clone waits for that, and is instant otherwise. Clone a snapshot
that has settled to make many clones.

A file system in a clone has the UUID of its original. XFS needs mount -o nouuid, or a new UUID (xfs_admin -U generate),
while both are mounted; see also btrfstune -m, tune2fs -U random, and vgimportclone for LVM.`,
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
		Short: "Make a snapshot the content of its volume again",
		Long: `rollback makes a snapshot the content of its volume again, at once and whatever their size. It keeps the present state
as a snapshot, whose name is made of the time (rollback-20261128T031500Z), and prints it; with --no-snapshot the present
state is dropped. Other snapshots stay.

The volume must not be attached, nor its live file open: rollback refuses, and names who has it. Data that was written
recently has to settle before it can be kept; rollback waits for that.`,
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
	cmd.Flags().BoolVar(&drop, "no-snapshot", false, "do not keep the present state as a snapshot")
	return a.jsonFlag(cmd)
}
