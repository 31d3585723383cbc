package command

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"varve/cmd/varve/internal/client"
	"varve/objstore"
)

func (a *app) checkCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "check",
		Aliases: []string{"scrub"},
		Short:   "Check the whole store for damage",
		Long: `check reads and verifies everything in the store that has a checksum or a hash, while the store is in use, and checks
that every chunk of every volume and snapshot is there. For each damage it lists the file, the offset and the object,
and the affected LBAs (sectors of 512 bytes) of volumes and snapshots. It also lists damage that was found and mended
when the store was opened.

It changes nothing. The exit status is 1 if there is damage that is not mended.`,
		Example: "  varve check\n  varve check --json | jq '.damage[].affects[].volume'",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.do(cmd.Context(), a.openLook, func(c *client.Client) error {
				bar := newBar(cmd.ErrOrStderr())
				report, err := c.Check(cmd.Context(), bar.update)
				bar.end()
				if err != nil {
					return doing("check", err)
				}
				if a.json {
					err = writeJSON(cmd.OutOrStdout(), report)
				} else {
					writeCheck(cmd.OutOrStdout(), report)
				}
				if report.Damaged() > 0 {
					return fmt.Errorf("check: %s is damaged", a.store)
				}
				return err
			})
		},
	}
	return a.jsonFlag(cmd)
}

func writeCheck(w io.Writer, r *objstore.CheckReport) {
	images := fmt.Sprintf("%d volumes and snapshots", r.Images)
	if r.Images == 1 {
		images = "1 volume"
	}
	fmt.Fprintf(w, "%s, %s of %s read and hashed, %s complete or listed; %s not settled\n",
		counted(r.Segments, "segment"), counted(int(r.Objects), "object"), formatSize(r.Bytes), images, formatSize(r.Tail))
	for _, name := range r.Strays {
		fmt.Fprintf(w, "%s is not one of the store's files; it is left alone\n", name)
	}
	if len(r.Damage) == 0 {
		fmt.Fprintln(w, "no damage")
		return
	}
	rows := make([][]string, 0, len(r.Damage))
	for _, d := range r.Damage {
		state := "damaged"
		if d.Mended {
			state = "mended"
		}
		rows = append(rows, []string{state, d.File, strconv.FormatInt(d.Offset, 10), d.Object, affectedText(d.Affects), d.Error})
	}
	fmt.Fprintln(w)
	writeTable(w, []column{{name: "state"}, {name: "file"}, {"offset", true}, {name: "object"}, {name: "affects"}, {name: "error"}}, rows)
}

// affectedText names images and LBAs, as many as fit on a line; --json has all.
func affectedText(affects []objstore.Affected) string {
	const images, ranges = 4, 4
	if len(affects) == 0 {
		return "nothing"
	}
	var out []string
	for _, a := range affects[:min(len(affects), images)] {
		name := a.Volume
		if a.Snapshot != "" {
			name += "@" + a.Snapshot
		}
		out = append(out, name+" LBA "+rangesText(a.Ranges, ranges))
	}
	if more := len(affects) - images; more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, "; ")
}

// rangesText formats the first and the last sector of up to most ranges.
func rangesText(ranges []objstore.Range, most int) string {
	var out []string
	for _, r := range ranges[:min(len(ranges), most)] {
		first := r.Off / objstore.SectorSize
		out = append(out, fmt.Sprintf("%d-%d", first, first+max(r.Len, 1)/objstore.SectorSize-1))
	}
	if more := len(ranges) - most; more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, ",")
}

// bar shows progress on a terminal.
type bar struct {
	w progress.Writer
	t progress.Tracker
}

// newBar returns a bar, which shows nothing if out is not a terminal.
func newBar(out io.Writer) *bar {
	b := &bar{t: progress.Tracker{Message: "check", Units: progress.Units{Formatter: formatSize}}}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return b
	}
	b.w = progress.NewWriter()
	b.w.SetOutputWriter(out)
	b.w.SetUpdateFrequency(200 * time.Millisecond)
	b.w.Style().Visibility.ETA = true
	b.w.AppendTracker(&b.t)
	go b.w.Render()
	return b
}

func (b *bar) update(p objstore.CheckProgress) {
	b.t.UpdateTotal(p.Total)
	b.t.SetValue(p.Done)
}

func (b *bar) end() {
	if b.w == nil {
		return
	}
	b.t.MarkAsDone()
	for b.w.IsRenderInProgress() && b.w.LengthActive() > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	b.w.Stop()
}
