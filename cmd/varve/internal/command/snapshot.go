package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
)

func (a *app) snapshotCmd() *cobra.Command {
	return newGroup(&cobra.Command{
		Use:     "snapshot",
		Aliases: []string{"snap"},
		Short:   "Create, list, compare, rename, mount and delete snapshots",
		Example: "  varve snapshot create data@monday",
	}, a.snapshotCreateCmd(), a.snapshotListCmd(), a.snapshotDiffCmd(), a.snapshotRenameCmd(), a.snapshotMountCmd(),
		a.snapshotUmountCmd(), a.snapshotDeleteCmd(), a.snapshotPruneCmd())
}

func (a *app) snapshotCreateCmd() *cobra.Command {
	wait := false
	cmd := &cobra.Command{
		Use:   "create VOLUME@SNAPSHOT",
		Short: "Create a snapshot of a volume",
		Long: `create freezes the volume's current content in an instant, even while the volume is in use. The snapshot is durable
when the command returns. Its root, the hash that identifies its content, is known when the snapshot has settled: --wait
waits for that and prints the root.

A mounted file system is in the snapshot as it would be after a power cut, and its journal makes it consistent. For
more, use fsfreeze(8) or sync first.`,
		Example: `  varve snapshot create data@monday
  root=$(varve snapshot create data@tuesday --wait)`,
		Args:              args("VOLUME@SNAPSHOT"),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("create snapshot %q", args[0])
			volume, snap, err := protocol.SplitSnapshot(args[0])
			if err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				r := protocol.CreateSnapshot{Volume: volume, Name: snap, Wait: wait}
				s, err := c.CreateSnapshot(cmd.Context(), r)
				switch {
				case err != nil:
					return doing(what, err)
				case a.json:
					return writeJSON(cmd.OutOrStdout(), s)
				case wait:
					fmt.Fprintln(cmd.OutOrStdout(), s.Root)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the snapshot has settled, and print its root")
	return a.jsonFlag(cmd)
}

func (a *app) snapshotListCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "list [VOLUME]",
		Aliases:           []string{"ls"},
		Short:             "List snapshots, oldest first",
		Long:              listLong + "\n\nROOT is the beginning of the snapshot's root; --json has the whole of it, and the size of the snapshot.",
		Example:           "  varve snapshot list data",
		Args:              upTo(1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			volume := ""
			if len(args) > 0 {
				volume = args[0]
				if err := protocol.CheckName(volume); err != nil {
					return usagef("list snapshots of %q: %w", volume, err)
				}
			}
			return a.do(cmd.Context(), a.openLook, func(c *client.Client) error {
				list, err := c.SharedSnapshots(cmd.Context(), volume)
				if err != nil {
					return doing("list snapshots", err)
				}
				if a.json {
					return writeJSON(cmd.OutOrStdout(), list)
				}
				rows := make([][]string, 0, len(list))
				for _, s := range list {
					root, logical := "settling", "-"
					if s.Root != "" {
						root, logical = shortRoot(s.Root), formatSize(s.Logical)
					}
					rows = append(rows, []string{
						s.Volume + "@" + s.Name, logical, uniqueText(s.Share), sharedText(s.Share), root, formatMinute(s.Created),
					})
				}
				writeTable(cmd.OutOrStdout(), []column{
					{name: "snapshot"}, {"logical", true}, {"unique", true}, {"shared", true}, {name: "root"}, {name: "created"},
				}, rows)
				return nil
			})
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) snapshotDeleteCmd() *cobra.Command {
	dryRun := false
	cmd := &cobra.Command{
		Use:     "delete VOLUME@SNAPSHOT...",
		Aliases: []string{"rm"},
		Short:   "Delete snapshots",
		Long: `delete deletes snapshots, one after the other, and returns at once. The space of what nothing else has is dead then,
as varve stat shows, until a collection frees it (varve gc).

With --dry-run nothing is deleted, and the output says how much deleting all of them together would free, once it is
collected. That is more than the sum of what deleting each of them alone would: data that only these snapshots have in
common counts too.`,
		Example: `  varve snapshot delete data@monday
  varve snapshot delete --dry-run data@monday data@tuesday data@wednesday`,
		Args:              atLeastOne("VOLUME@SNAPSHOT"),
		ValidArgsFunction: a.completeSnapshots,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if _, _, err := protocol.SplitSnapshot(name); err != nil {
					return usagef("delete snapshot %q: %w", name, err)
				}
			}
			if dryRun {
				return a.wouldFree(cmd, counted(len(args), "snapshot"), protocol.WouldFree{Snapshots: args})
			}
			if a.json {
				return usagef("delete snapshots: --json needs --dry-run: a deletion has no output")
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				for i, name := range args {
					volume, snap, _ := protocol.SplitSnapshot(name)
					err := c.DeleteSnapshot(cmd.Context(), volume, snap)
					if err != nil && i > 0 {
						err = fmt.Errorf("%w; the snapshots named before it (%d) were deleted", err, i)
					}
					if err != nil {
						return doing(fmt.Sprintf("delete snapshot %q", name), err)
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what the deletion would free, and delete nothing")
	return a.jsonFlag(cmd)
}
