package command

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// listLong explains the columns of sizes that the lists have in common.
const listLong = `LOGICAL is the data that is not zero in the settled state. UNIQUE is what deleting this volume's state or this
snapshot alone would free; SHARED is what it shares with others, or contains several times. UNIQUE and SHARED count
bytes on disk, including tree nodes. '~' marks an estimate, in stores with very many chunks; '-' means not known yet.`

func uniqueText(s *objstore.Share) string {
	return shareText(s, func() int64 { return s.Unique })
}

func sharedText(s *objstore.Share) string {
	return shareText(s, func() int64 { return s.Shared })
}

func historyText(s *objstore.Share) string {
	return shareText(s, func() int64 { return s.History })
}

func shareText(s *objstore.Share, size func() int64) string {
	switch {
	case s == nil:
		return "-"
	case s.Estimated:
		return "~" + formatSize(size())
	}
	return formatSize(size())
}

// formatMinute is formatTime without the seconds, for wide tables.
func formatMinute(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

// wouldFree shows what deleting what was named would free.
func (a *app) wouldFree(cmd *cobra.Command, what string, r protocol.WouldFree) error {
	// Snapshots settle first, which only an opened store does.
	return a.do(cmd.Context(), a.open, func(c *client.Client) error {
		f, err := c.WouldFree(cmd.Context(), r)
		if err != nil {
			return doing("find out what deleting "+what+" would free", err)
		}
		if a.json {
			return writeJSON(cmd.OutOrStdout(), f)
		}
		about := ""
		if f.Estimated {
			about = "about "
		}
		text := fmt.Sprintf("deleting %s would free %s%s: %s of data, %s of metadata", what, about,
			formatSize(f.Total), formatSize(f.Data), formatSize(f.Metadata))
		if f.Tail > 0 {
			text += ", " + formatSize(f.Tail) + " not settled"
		}
		fmt.Fprintln(cmd.OutOrStdout(), text)
		return nil
	})
}
