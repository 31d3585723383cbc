package command

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (a *app) snapshotDiffCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff FROM [TO]",
		Short: "Show what differs between two snapshots or volumes",
		Long: `diff lists the byte ranges in which two snapshots or volumes differ. FROM and TO are each VOLUME@SNAPSHOT or VOLUME,
of any volumes and sizes; without TO, a snapshot is compared with its own volume.

Writing these ranges of TO to FROM, after FROM was cut or extended with zeroes to the size of TO, would make both
equal. Ranges consist of whole chunks, in each of which at least one byte differs. A range marked as zeroes takes no
space in TO.

The time that diff takes depends on the number of differences, not on the size of the volumes, as only differing parts
are read. Recently written data settles first.`,
		Example: `  varve snapshot diff data@monday
  varve snapshot diff data@monday data@tuesday --json | jq -s 'map(select(.length)) | map(.length) | add'
  varve snapshot diff golden@v1 sandbox17`,
		Args: func(cmd *cobra.Command, got []string) error {
			if len(got) == 0 {
				return usagef("FROM is missing")
			}
			return upTo(2)(cmd, got)
		},
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "diff " + strings.Trim(fmt.Sprintf("%q", args), "[]")
			r, err := diffRequest(args)
			if err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				return doing(what, a.writeDiff(cmd, c, r))
			})
		},
	}
	return a.jsonFlag(cmd)
}

// diffRequest is what the arguments ask for.
func diffRequest(args []string) (r protocol.Diff, err error) {
	if r.From, err = protocol.ParseImage(args[0]); err != nil {
		return r, err
	}
	if len(args) > 1 {
		r.To, err = protocol.ParseImage(args[1])
		return r, err
	}
	if r.From.Snapshot == "" {
		return r, fmt.Errorf("%s is compared with itself; name a snapshot, or a second volume", r.From)
	}
	r.To = objstore.ImageName{Volume: r.From.Volume}
	return r, nil
}

// writeDiff writes the changes as they come: there may be more than fit into memory.
func (a *app) writeDiff(cmd *cobra.Command, c *client.Client, r protocol.Diff) error {
	write := writeDiffText
	if a.json {
		write = writeDiffJSON
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	err := write(cmd.Context(), out, c, r)
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	return err
}

func writeDiffJSON(ctx context.Context, out io.Writer, c *client.Client, r protocol.Diff) error {
	enc := json.NewEncoder(out)
	total, err := c.Diff(ctx, r, func(i objstore.DiffImages) error { return enc.Encode(i) },
		func(c objstore.Change) error { return enc.Encode(c) })
	if err != nil {
		return err
	}
	return enc.Encode(total)
}

func writeDiffText(ctx context.Context, out io.Writer, c *client.Client, r protocol.Diff) error {
	none := "no difference"
	begin := func(i objstore.DiffImages) error {
		if i.From.Size != i.To.Size {
			none = "no other difference"
			fmt.Fprintf(out, "%s has %s, %s has %s\n", i.From, formatSize(i.From.Size), i.To, formatSize(i.To.Size))
		}
		return nil
	}
	first := true
	total, err := c.Diff(ctx, r, begin, func(c objstore.Change) error {
		if first {
			fmt.Fprintf(out, "%20s %20s  %s\n", "OFFSET", "LENGTH", "NOW")
			first = false
		}
		kind := "data"
		if c.Zero {
			kind = "zero"
		}
		_, err := fmt.Fprintf(out, "%20d %20d  %s\n", c.Off, c.Len, kind)
		return err
	})
	if err != nil {
		return err
	}
	if total.Ranges == 0 {
		_, err = fmt.Fprintln(out, none)
		return err
	}
	_, err = fmt.Fprintf(out, "%s, %s of data, %s of zeroes\n", counted(int(total.Ranges), "range"),
		formatSize(total.Bytes-total.Zero), formatSize(total.Zero))
	return err
}
