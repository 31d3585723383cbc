package command

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (a *app) volumeRepairCmd() *cobra.Command {
	var q protocol.Repair
	cmd := &cobra.Command{
		Use:   "repair NAME",
		Short: "Return a damaged volume to its last good state",
		Long: `repair shows what is damaged in a volume that cannot be opened, the state to which it can return and the time of that
state, and what would be lost. Without --accept-loss it changes nothing.

A volume whose journal is damaged returns to the last record before the damage: later writes are lost, flushed or not.
A volume whose root is lost returns to its newest snapshot. Snapshots that have not settled and need the lost data are
deleted.`,
		Example: `  varve volume repair data
  varve volume repair data --accept-loss`,
		Args:              args("NAME"),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("repair volume %q", args[0])
			if err := protocol.CheckName(args[0]); err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				r, err := c.RepairVolume(cmd.Context(), args[0], q)
				if err != nil {
					return doing(what, err)
				}
				if a.json {
					return writeJSON(cmd.OutOrStdout(), r)
				}
				writeRepair(cmd.OutOrStdout(), r)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&q.AcceptLoss, "accept-loss", false, "repair the volume, and lose what the command lists without this flag")
	return a.jsonFlag(cmd)
}

// timeOfState formats the time of a volume's state.
func timeOfState(t time.Time) string {
	if t.IsZero() {
		return "at an unknown time"
	}
	return "at " + formatTime(t)
}

func writeRepair(w io.Writer, r objstore.Repair) {
	var bytes int64
	for _, l := range r.Lost {
		bytes += l.Len
	}
	lost := "nothing that is known"
	if len(r.Lost) > 0 {
		lost = fmt.Sprintf("%s, at LBA %s", formatSize(bytes), rangesText(r.Lost, 16))
	}
	snaps := make([]string, len(r.Snapshots))
	for i, s := range r.Snapshots {
		snaps[i] = r.Volume + "@" + s
	}
	done := "no; to do it: varve volume repair " + r.Volume + " --accept-loss"
	if r.Done {
		done = "yes"
	}
	writeFields(w, [][2]string{
		{"volume", r.Volume},
		{"damage", r.Damage},
		{"returns to", r.BackTo + ", " + timeOfState(r.Time)},
		{"written since", lost},
		{"unreadable records", strconv.Itoa(r.Unknown)},
		{"deleted snapshots", orNone(strings.Join(snaps, ", "))},
		{"done", done},
	})
}
