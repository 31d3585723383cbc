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
		Short: "Take a damaged volume back to its last good state",
		Long: `repair says what is damaged in a volume that is refused, to which state of what time it can go back, and what would be
lost. Nothing is done without --accept-loss.

A volume whose journal is damaged goes back to the last record before the damage: what was written later is lost,
flushed or not. One whose root is lost goes back to its newest snapshot. Snapshots that had not settled and need what
is lost are deleted.`,
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
	cmd.Flags().BoolVar(&q.AcceptLoss, "accept-loss", false, "do it")
	return a.jsonFlag(cmd)
}

// timeOfState says when the volume was in a state.
func timeOfState(t time.Time) string {
	if t.IsZero() {
		return "of an unknown time"
	}
	return "of " + formatTime(t)
}

func writeRepair(w io.Writer, r objstore.Repair) {
	var bytes int64
	for _, l := range r.Lost {
		bytes += l.Len
	}
	lost := "nothing that can be named"
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
		{"goes back to", r.BackTo + ", " + timeOfState(r.Time)},
		{"written since", lost},
		{"unreadable records", strconv.Itoa(r.Unknown)},
		{"snapshots that go", orNone(strings.Join(snaps, ", "))},
		{"done", done},
	})
}
