package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (a *app) volumeHistoryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history NAME",
		Short: "List the past states of a volume",
		Long: `history lists the past states of a volume that its policy keeps, oldest first. The volume has a new state each time
that it has settled, some seconds after a write. A volume's history begins with its first policy (varve volume set
--keep-last and so on).

A state is named VOLUME@{NUMBER}. The number never changes; larger numbers are newer, and there are gaps. A state can
be used like a snapshot: it can be cloned, attached, mounted, compared and rolled back to. After a crash, the states
of the last seconds may be missing.`,
		Example: `  varve volume history data
  varve volume clone 'data@{17}' data-before
  varve volume rollback 'data@{17}'`,
		Args:              args("NAME"),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("list the history of %q", args[0])
			if err := protocol.CheckName(args[0]); err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.openLook, func(c *client.Client) error {
				list, err := c.History(cmd.Context(), args[0])
				if err != nil {
					return doing(what, err)
				}
				if a.json {
					return writeJSON(cmd.OutOrStdout(), list)
				}
				rows := make([][]string, 0, len(list))
				for _, s := range list {
					rows = append(rows, []string{s.Volume + "@" + s.Name, formatSize(s.Size), formatSize(s.Logical), shortRoot(s.Root), formatTime(s.Created)})
				}
				writeTable(cmd.OutOrStdout(), []column{
					{name: "state"}, {"size", true}, {"logical", true}, {name: "root"}, {name: "settled"},
				}, rows)
				return nil
			})
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) snapshotPruneCmd() *cobra.Command {
	r := protocol.Prune{}
	cmd := &cobra.Command{
		Use:   "prune [NAME]",
		Short: "Delete what volume policies do not keep",
		Long: `prune applies the policy of one volume, or of all volumes: it deletes the automatic snapshots and the past states that
the policy does not keep. The daemon does the same at each automatic snapshot and each new state, so there is
something to prune only after a policy has changed. Snapshots that were created by hand are never deleted.

With --dry-run nothing is deleted, and the output says what would be deleted, and how much space a collection would
then free.`,
		Example:           "  varve snapshot prune data --dry-run\n  varve snapshot prune",
		Args:              upTo(1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "prune"
			if len(args) > 0 {
				r.Volume = args[0]
				what = fmt.Sprintf("prune %q", args[0])
				if err := protocol.CheckName(args[0]); err != nil {
					return usagef("%s: %w", what, err)
				}
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				p, err := c.Prune(cmd.Context(), r)
				if err != nil {
					return doing(what, err)
				}
				writeNotes(cmd, p.Notes)
				if a.json {
					return writeJSON(cmd.OutOrStdout(), p)
				}
				writePruned(cmd, r.DryRun, p)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be deleted and freed, and delete nothing")
	return a.jsonFlag(cmd)
}

func writePruned(cmd *cobra.Command, dryRun bool, p protocol.Pruned) {
	out := cmd.OutOrStdout()
	for _, list := range [][]objstore.SnapshotInfo{p.States, p.Snapshots} {
		for _, s := range list {
			fmt.Fprintf(out, "%s@%s  %s\n", s.Volume, s.Name, formatTime(s.Created))
		}
	}
	verb := "deleted"
	if dryRun {
		verb = "would be deleted"
	}
	fmt.Fprintf(out, "%s and %s %s", counted(len(p.States), "state"), counted(len(p.Snapshots), "snapshot"), verb)
	if p.Freed != nil {
		about := ""
		if p.Freed.Estimated {
			about = "about "
		}
		fmt.Fprintf(out, ", which would free %s%s", about, formatSize(p.Freed.Total))
	}
	fmt.Fprintln(out)
}
