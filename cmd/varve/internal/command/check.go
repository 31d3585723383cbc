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

// checkFlags are the flags of varve check, as they were given.
type checkFlags struct {
	rate, since string
	percent     int
	resume      bool
}

func (a *app) checkCmd() *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:     "check [--rate BYTES/s] [[--percent N] [--since TIME] | --resume]",
		Aliases: []string{"scrub"},
		Short:   "Check the store for damage",
		Long: `check reads and verifies everything in the store that has a checksum or a hash, while the store is in use, and checks
that every chunk of every volume and snapshot is there. For each damage it lists the file, the offset and the object,
and the affected LBAs (sectors of 512 bytes) of volumes and snapshots. It also lists damage that was found and
repaired when the store was opened.

--rate limits how much is read per second.
--percent verifies about that percentage of the store, beginning with the segments that have gone unverified longest.
Ten checks with --percent 10 verify everything.
--since verifies the segments that have not been verified since a time (2026-03-01, 2026-03-01T12:00:00Z) or within a
duration (30d, 12h). Together with --percent, that percentage is the most that is verified.
--resume continues a check of the whole store that was interrupted by a signal, a kill or the end of the daemon, and
does not read again what that check had verified. If none was interrupted, a new check begins.

Segments with known damage are always verified again. With --percent or --since, check does not look for missing
chunks. varve set --scrub-every makes the daemon check the store regularly.

check changes nothing but its record of what was verified; without a daemon and without these flags, not even that.

The exit status is 1 if there is damage that is not repaired.`,
		Example: `  varve check
  varve check --rate 100M
  varve check --percent 10
  varve check --since 30d
  varve check --json | jq '.damage[].affects[].volume'`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := f.request(cmd)
			if err != nil {
				return err
			}
			open := a.openLook
			if r.Percent > 0 || !r.Since.IsZero() || r.Resume { // it relies on the record of what was verified
				open = a.open
			}
			return a.do(cmd.Context(), open, func(c *client.Client) error { return a.check(cmd, c, r) })
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.rate, "rate", "", "read at most this many `bytes` per second, like 100M")
	fs.IntVar(&f.percent, "percent", 0, "verify `N` percent of the store, 1 to 100: what has gone unverified longest")
	fs.StringVar(&f.since, "since", "", "verify what has not been verified since a `time`, or within a duration like 30d")
	fs.BoolVar(&f.resume, "resume", false, "continue an interrupted check of the whole store")
	complete(cmd, "percent", nil)
	complete(cmd, "rate", nil)
	complete(cmd, "since", nil)
	return a.jsonFlag(cmd)
}

// request returns what the flags ask for.
func (f *checkFlags) request(cmd *cobra.Command) (r protocol.CheckStore, err error) {
	given := cmd.Flags().Changed
	if given("rate") {
		if r.Rate, err = parseRate(f.rate); err != nil {
			return r, usagef("--rate: %w", err)
		}
	}
	if given("percent") {
		if r.Percent = f.percent; f.percent < 1 || f.percent > 100 {
			return r, usagef("--percent %d; use 1 to 100", f.percent)
		}
	}
	if given("since") {
		if r.Since, err = parseTime(f.since, time.Now()); err != nil {
			return r, usagef("--since: %w", err)
		}
		r.Since = r.Since.UTC()
	}
	if r.Resume = f.resume; f.resume && (given("percent") || given("since")) {
		return r, usagef("--resume continues a check of the whole store; it takes neither --percent nor --since")
	}
	return r, nil
}

// check runs a check and writes its report.
func (a *app) check(cmd *cobra.Command, c *client.Client, r protocol.CheckStore) error {
	bar := newBar(cmd.ErrOrStderr(), "check")
	report, err := c.Check(cmd.Context(), r, func(p objstore.CheckProgress) { bar.update(p.Done, p.Total) })
	if err == nil {
		bar.complete(report.Bytes)
	}
	bar.end()
	if err != nil {
		if r.Percent == 0 && r.Since.IsZero() && cmd.Context().Err() != nil && (r.Resume || c.Daemon() != nil) {
			err = fmt.Errorf("%w; varve check --resume continues where it stopped", err)
		}
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
}

func writeCheck(w io.Writer, r *objstore.CheckReport) {
	segments := counted(r.Segments, "segment")
	if r.Skipped > 0 {
		segments = fmt.Sprintf("%d of %s", r.Segments-r.Skipped, segments)
	}
	fmt.Fprintf(w, "%s, %s of %s read and hashed", segments, counted(int(r.Objects), "object"), formatSize(r.Bytes))
	switch r.Images {
	case 0:
		fmt.Fprintln(w)
	case 1:
		fmt.Fprintf(w, ", 1 volume walked; %s not settled\n", formatSize(r.Tail))
	default:
		fmt.Fprintf(w, ", %d volumes and snapshots walked; %s not settled\n", r.Images, formatSize(r.Tail))
	}
	if p := r.Resumed; p != nil {
		fmt.Fprintf(w, "resumed: %s were read and hashed before, since %s\n", formatSize(p.Bytes), formatTime(p.Begun))
	}
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
		if d.Repaired {
			state = "repaired"
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
