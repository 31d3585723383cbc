package command

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (a *app) gcCmd() *cobra.Command {
	var r protocol.Collect
	cmd := &cobra.Command{
		Use:   "gc [--wait | --dry-run]",
		Short: "Free the space of deleted and overwritten data",
		Long: `gc frees the space of data that no volume or snapshot refers to any more, because it was overwritten, discarded, or
deleted with its volume or snapshot. It runs while the store is in use, and first settles what was written.

The store also collects by itself, when enough data may be dead or when space is short; gc frees the space now. Where
live and dead data alternate, a little dead data stays, as file systems handle many small holes badly. On a full disk gc
works, too; what it has no room to free is an error.

The daemon collects in the background, as varve stat shows; --wait waits for the end and then shows what was freed. An
interrupted --wait ends the collection. Without a daemon the command collects itself.

--dry-run shows what would be freed, and changes nothing. It leaves out data that has not settled yet.

varve set --gc-rate limits how much is read, written and freed per second.`,
		Example: "  varve gc --wait\n  varve gc --dry-run\n  varve stat --json | jq .collect",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.Wait && r.DryRun {
				return usagef("--dry-run is always waited for; leave out --wait")
			}
			open := a.open
			if r.DryRun {
				open = a.openLook
			}
			return a.do(cmd.Context(), open, func(c *client.Client) error { return a.gc(cmd, c, r) })
		},
	}
	cmd.Flags().BoolVar(&r.Wait, "wait", false, "wait until the space is free")
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "only say what would be freed")
	return a.jsonFlag(cmd)
}

func (a *app) gc(cmd *cobra.Command, c *client.Client, r protocol.Collect) error {
	var b *bar
	var phase objstore.CollectPhase
	done, err := c.Collect(cmd.Context(), r, func(st objstore.CollectState) {
		if st.Total == 0 {
			return
		}
		if b == nil || st.Phase != phase { // each phase counts something else
			if b != nil {
				b.end()
			}
			b, phase = newCountBar(cmd.ErrOrStderr(), collectingText(st.Phase)), st.Phase
		}
		b.update(st.Done, st.Total)
	})
	if b != nil {
		b.end()
	}
	switch {
	case err != nil:
		return doing("gc", err)
	case a.json:
		return writeJSON(cmd.OutOrStdout(), done)
	case done.Report == nil:
		fmt.Fprintln(cmd.OutOrStdout(), "collecting in the background; varve stat shows how far it is")
	default:
		writeCollected(cmd.OutOrStdout(), done.Report)
	}
	return nil
}

// collectingText says what is done, and counted, in a phase.
func collectingText(p objstore.CollectPhase) string {
	switch p {
	case objstore.CollectMarking:
		return "walking volumes and snapshots"
	case objstore.CollectSweeping:
		return "sweeping segments"
	case objstore.CollectWaiting, objstore.CollectIdle:
	}
	return "waiting for what is being settled or read"
}

func writeCollected(w io.Writer, r *objstore.CollectReport) {
	freed := "freed"
	if r.DryRun {
		freed = "would free"
	}
	switch {
	case r.Dead == 0 && r.Segments == 0: // all of them are open
		fmt.Fprintln(w, "nothing to free")
	case r.Dead == 0:
		fmt.Fprintf(w, "nothing to free in %s\n", counted(r.Segments, "segment"))
	default:
		fmt.Fprintf(w, "%s %s: %s in %d of %s\n", freed, formatSize(r.Freed), counted(int(r.Dead), "object"), r.Swept,
			counted(r.Segments, "segment"))
	}
	if r.Kept > 0 {
		fmt.Fprintf(w, "%s more are dead, and stay among live data\n", formatSize(r.Kept))
	}
}

// collectText says what stat shows of collection.
func collectText(i *objstore.CollectInfo) string {
	var text string
	if i.Phase != objstore.CollectIdle {
		text = collectingText(i.Phase)
		if i.Total > 0 {
			text += fmt.Sprintf(", %d of %d", i.Done, i.Total)
		}
		text += ", " + formatSize(i.Freed) + " freed; "
	}
	if i.LastEnded.IsZero() {
		text += "last never"
	} else {
		text += fmt.Sprintf("last %s, %s freed", formatTime(i.LastEnded), formatSize(i.LastFreed))
	}
	if i.Error != "" {
		text += "; NOT COMPLETED since: " + i.Error
	}
	if i.Rate == 0 {
		return text + "; no limit of rate"
	}
	return text + "; at most " + formatRate(i.Rate)
}
