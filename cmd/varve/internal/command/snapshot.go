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
		Short:   "Create, list, compare, mount and delete snapshots",
		Example: "  varve snapshot create data@monday",
	}, a.snapshotCreateCmd(), a.snapshotListCmd(), a.snapshotDiffCmd(), a.snapshotMountCmd(), a.snapshotUmountCmd(), a.snapshotDeleteCmd())
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
				list, err := c.Snapshots(cmd.Context(), volume)
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
						s.Volume + "@" + s.Name, formatSize(s.Size), logical, root, formatTime(s.Created),
					})
				}
				writeTable(cmd.OutOrStdout(), []column{
					{name: "snapshot"}, {"size", true}, {"logical", true}, {name: "root"}, {name: "created"},
				}, rows)
				return nil
			})
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) snapshotDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "delete VOLUME@SNAPSHOT",
		Aliases:           []string{"rm"},
		Short:             "Delete a snapshot",
		Example:           "  varve snapshot delete data@monday",
		Args:              args("VOLUME@SNAPSHOT"),
		ValidArgsFunction: a.completeSnapshot,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("delete snapshot %q", args[0])
			volume, snap, err := protocol.SplitSnapshot(args[0])
			if err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				return doing(what, c.DeleteSnapshot(cmd.Context(), volume, snap))
			})
		},
	}
}
